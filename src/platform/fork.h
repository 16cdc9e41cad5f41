/* Children of fork: libgomp's threads do not survive it, and would be waited for for ever, so a child runs serially. */
#ifndef BN_FORK_H
#define BN_FORK_H

void bn_watch_fork(void); /* once, at import */
int bn_forked(void);      /* 1 in a process that was forked since */

#endif
