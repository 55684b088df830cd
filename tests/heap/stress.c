/*
 * Eight threads that allocate, grow, shrink, align and free blocks of all sizes; some free
 * what others made, and some end and are followed by new ones.
 *
 * It reads lines: "storm" lets the threads work, "rest" waits until they stand still; each
 * is answered with the same word.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 8
#define BLOCKS 1500
#define LIFE 50000

static _Atomic(void *) blocks[THREADS][BLOCKS];
static atomic_int working, resting;

static size_t some_size(unsigned *seed)
{
    switch (rand_r(seed) % 64) {
    case 0:
        return (size_t)rand_r(seed) % 600000;
    case 1 ... 4:
        return (size_t)rand_r(seed) % 20000;
    default:
        return (size_t)rand_r(seed) % 700;
    }
}

static void step(int mine, unsigned *seed)
{
    int whose = rand_r(seed) % 16 ? mine : rand_r(seed) % THREADS;
    _Atomic(void *) *slot = &blocks[whose][rand_r(seed) % BLOCKS];
    void *block = atomic_exchange(slot, NULL);
    size_t size = some_size(seed);
    switch (rand_r(seed) % 8) {
    case 0:
        block = realloc(block, size + 1);
        break;
    case 1:
        free(block);
        block = memalign((size_t)16 << rand_r(seed) % 9, size);
        break;
    case 2:
        free(block);
        block = calloc(1, size);
        break;
    case 3 ... 4:
        free(block);
        return;
    default:
        free(block);
        block = malloc(size);
    }
    if (block) {
        memset(block, 0x5a, size < 64 ? size : 64);
    }
    free(atomic_exchange(slot, block));
}

static void *work(void *number)
{
    int mine = (int)(intptr_t)number;
    unsigned seed = (unsigned)mine * 7919 + (unsigned)gettid();
    for (int i = 0; i < LIFE; i++) {
        if (!atomic_load(&working)) {
            atomic_fetch_add(&resting, 1);
            while (!atomic_load(&working)) {
                usleep(1000);
            }
            atomic_fetch_sub(&resting, 1);
        }
        step(mine, &seed);
    }
    pthread_t next;
    pthread_create(&next, NULL, work, number);
    pthread_detach(next);
    return NULL;
}

int main(void)
{
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (intptr_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, (void *)i);
        pthread_detach(thread);
    }
    while (fgets(line, sizeof(line), stdin)) {
        int storm = strncmp(line, "storm", 5) == 0;
        atomic_store(&working, storm);
        while (storm ? atomic_load(&resting) > 0 : atomic_load(&resting) < THREADS) {
            usleep(1000);
        }
        fputs(line, stdout);
    }
    _exit(0);
}
