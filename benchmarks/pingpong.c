/* How long one core waits for another: two threads hand one cache line back and forth. Compiled by machine.py.
 *
 * In a virtual machine the answer changes within the hour (30 to 55 ns, or about 200 ns, on the machines seen so far):
 * where the host has put the cores decides how fast cached data goes from one to the other and how much two cores can
 * write together. So it stands beside every figure.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { ROUNDS = 20000, LOOK = 16 };  /* at most; rounds from one look at the clock to the next */
static const double PATIENCE = 0.02; /* seconds: where other programs hold the cores, a round takes a slice of time */

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
    int turn;
    for (int i = 0;; i++) {
        while ((turn = atomic_load_explicit(&line.turn, memory_order_acquire)) != 2 * i + 1)
            if (turn < 0) return ignored;
        atomic_store_explicit(&line.turn, 2 * i + 2, memory_order_release);
    }
}

/* Seconds that a change of one core takes to be seen by the other; negative where no second thread could be had. */
double pingpong(void)
{
    pthread_t other;
    double begin;
    int done = 0;
    atomic_store(&line.turn, 0);
    if (pthread_create(&other, NULL, answer, NULL)) return -1;
    begin = now();
    while (done < ROUNDS && (done % LOOK || now() - begin < PATIENCE)) {
        atomic_store_explicit(&line.turn, 2 * done + 1, memory_order_release);
        while (atomic_load_explicit(&line.turn, memory_order_acquire) != 2 * done + 2) continue;
        done++;
    }
    begin = now() - begin;
    atomic_store(&line.turn, -1);
    pthread_join(other, NULL);
    return begin / (2 * done);
}
