/*
 * Preloaded into a program: writes down every block that malloc returns and free takes, in
 * memory of the program itself, so that one capture has both the heap and the truth.
 *
 * A block is added after malloc has returned it and removed before free gets it: whatever
 * is in the table is live at every instant.  Nothing here locks or allocates.
 *
 * Linked into a static program, it is what the linker wraps each function by (--wrap).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#ifdef WRAP
#define malloc __wrap_malloc
#define calloc __wrap_calloc
#define realloc __wrap_realloc
#define memalign __wrap_memalign
#define free __wrap_free
void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_memalign(size_t, size_t), __real_free(void *);
#endif

#define SLOTS (1u << 17)
#define GONE 1

struct slot {
    _Atomic uintptr_t block;
    _Atomic size_t size;
};

static struct table {
    char magic[16];
    _Atomic uint64_t full;
    uint64_t slots;
    struct slot slot[];
} *table;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_memalign)(size_t, size_t);
static void (*real_free)(void *);

/* dlsym() allocates before anything is known. */
static char early[65536] __attribute__((aligned(16)));
static size_t early_used;
static int starting;

static void *from_early(size_t size)
{
    void *block = early + early_used;
    early_used += (size + 15) & ~(size_t)15;
    return early_used <= sizeof(early) ? block : NULL;
}

static int is_early(void *block)
{
    return (char *)block >= early && (char *)block < early + sizeof(early);
}

static int start(void)
{
    if (table) {
        return 1;
    }
    if (starting) {
        return 0;
    }
    starting = 1;
#ifdef WRAP
    real_malloc = __real_malloc;
    real_calloc = __real_calloc;
    real_realloc = __real_realloc;
    real_memalign = __real_memalign;
    real_free = __real_free;
#else
    real_malloc = dlsym(RTLD_NEXT, "malloc");
    real_calloc = dlsym(RTLD_NEXT, "calloc");
    real_realloc = dlsym(RTLD_NEXT, "realloc");
    real_memalign = dlsym(RTLD_NEXT, "memalign");
    real_free = dlsym(RTLD_NEXT, "free");
#endif
    size_t size = sizeof(struct table) + SLOTS * sizeof(struct slot);
    struct table *fresh = mmap(NULL, size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    memcpy(fresh->magic, "malloc-truth-v1", 16);
    fresh->slots = SLOTS;
    table = fresh;
    return 1;
}

static uint32_t hash(uintptr_t block)
{
    return (uint32_t)(block * 0x9e3779b97f4a7c15ull >> 40) % SLOTS;
}

static void *added(void *block, size_t size)
{
    uint32_t at = hash((uintptr_t)block);
    for (uint32_t i = 0; block && i < SLOTS; i++, at = (at + 1) % SLOTS) {
        uintptr_t seen = atomic_load(&table->slot[at].block);
        while (seen <= GONE) {
            if (atomic_compare_exchange_strong(&table->slot[at].block, &seen, (uintptr_t)block)) {
                atomic_store(&table->slot[at].size, size);
                return block;
            }
        }
    }
    table->full += block != NULL;
    return block;
}

static void removed(void *block)
{
    uint32_t at = hash((uintptr_t)block);
    for (uint32_t i = 0; block && i < SLOTS; i++, at = (at + 1) % SLOTS) {
        uintptr_t seen = atomic_load(&table->slot[at].block);
        if (seen == (uintptr_t)block) {
            atomic_store(&table->slot[at].size, 0);
            atomic_store(&table->slot[at].block, GONE);
            return;
        }
        if (!seen) {
            return;
        }
    }
}

void *malloc(size_t size)
{
    return start() ? added(real_malloc(size), size) : from_early(size);
}

void *calloc(size_t count, size_t size)
{
    return start() ? added(real_calloc(count, size), count * size) : from_early(count * size);
}

void free(void *block)
{
    if (block && !is_early(block)) {
        removed(block);
        real_free(block);
    }
}

void *realloc(void *block, size_t size)
{
    if (!start() || is_early(block)) {
        void *copy = malloc(size);
        if (copy && block) {
            size_t have = (size_t)(early + sizeof(early) - (char *)block);
            memcpy(copy, block, size < have ? size : have);
        }
        return copy;
    }
    removed(block);
    return added(real_realloc(block, size), size);
}

void *memalign(size_t alignment, size_t size)
{
    return start() ? added(real_memalign(alignment, size), size) : NULL;
}

#ifndef WRAP
void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = memalign(alignment, size);
    return *block ? 0 : 12;
}

void *valloc(size_t size)
{
    return memalign(4096, size);
}

void *pvalloc(size_t size)
{
    return memalign(4096, (size + 4095) & ~(size_t)4095);
}
#endif
