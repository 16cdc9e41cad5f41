/* The threads of a parallel region; without OpenMP there is one. */
#ifndef BN_TEAM_H
#define BN_TEAM_H

#ifdef _OPENMP
#include <omp.h>
static inline int bn_rank(void) { return omp_get_thread_num(); }
static inline int bn_team(void) { return omp_get_num_threads(); }
static inline void bn_barrier(void) { _Pragma("omp barrier") }
#else
static inline int bn_rank(void) { return 0; }
static inline int bn_team(void) { return 1; }
static inline void bn_barrier(void) {}
#endif

/* A region for callers of which nobody knows whether they hold the GIL. Cython's would ask Python, which answers wrongly
 * once there was a sub-interpreter. work(task, rank, team) on each thread, rank 0 on the caller's.
 */
static inline void bn_region(int threads, void (*work)(void *, int, int), void *task)
{
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
    work(task, bn_rank(), bn_team());
    (void)threads;
}

#endif
