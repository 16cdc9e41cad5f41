/* How long one core waits for another: two threads hand one cache line back and forth. Compiled by machine.py.
 *
 * In a virtual machine the answer changes within the hour (30 to 55 ns, or about 200 ns, on the machines seen so far): where
 * the host has put the cores decides how fast cached data goes from one to the other and how much two cores can write
 * together. So it stands beside every figure.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { ROUNDS = 20000 };

static struct {
    _Alignas(128) atomic_int turn;
    char rest[124];
} line;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *answer(void *ignored)
{
    for (int i = 0; i < ROUNDS; i++) {
        while (atomic_load_explicit(&line.turn, memory_order_acquire) != 2 * i + 1) continue;
        atomic_store_explicit(&line.turn, 2 * i + 2, memory_order_release);
    }
    return ignored;
}

/* Seconds that a change of one core takes to be seen by the other; negative where no second thread could be had. */
double pingpong(void)
{
    pthread_t other;
    double begin;
    atomic_store(&line.turn, 0);
    if (pthread_create(&other, NULL, answer, NULL)) return -1;
    while (atomic_load(&line.turn)) continue;
    begin = now();
    for (int i = 0; i < ROUNDS; i++) {
        atomic_store_explicit(&line.turn, 2 * i + 1, memory_order_release);
        while (atomic_load_explicit(&line.turn, memory_order_acquire) != 2 * i + 2) continue;
    }
    begin = now() - begin;
    pthread_join(other, NULL);
    return begin / (2 * ROUNDS);
}
