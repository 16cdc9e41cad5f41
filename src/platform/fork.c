#include "platform/fork.h"

#include <pthread.h>

static int forked;

static void in_child(void) { forked = 1; }

void bn_watch_fork(void) { pthread_atfork(NULL, NULL, in_child); }

int bn_forked(void) { return forked; }
