/* A parallel region for callers of which nobody knows whether they hold the GIL. Cython's prange would ask Python, which
 * answers wrongly once there was a sub-interpreter.
 */
#ifndef BN_TEAM_H
#define BN_TEAM_H

/* work(task, t) for t = 0 .. threads-1, each on a thread of its own; t = 0 on the caller's. */
static inline void bn_team(int threads, void (*work)(void *, int), void *task)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (int t = 0; t < threads; t++) work(task, t);
}

#endif
