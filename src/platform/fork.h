/* Children of fork. libgomp's threads do not survive a fork, and it would wait for them for ever: a child runs serially. */
#ifndef BN_FORK_H
#define BN_FORK_H

void bn_watch_fork(void); /* once, at import */
int bn_forked(void);      /* 1 in a process that was forked since */

#endif
