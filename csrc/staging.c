/* staging.c: the staging buffers of the process, through which goes what cannot go from where it stands.
 *
 * They come from the system in blocks of 2 MiB, one by one, as transfers find none free: a block is one large buffer, or 128
 * small ones. A block that is free again stays for the next transfer, as far as one busy queue needs (`kept`); the rest goes
 * back to the system at once, and all of it with the last queue that has staged anything. An idle queue so has none.
 *
 * How many a queue may have at a time: an equal share with the other queues that are staging at that moment, and one at
 * least. So a queue never waits for another one, whose transfers may be stuck, on a server that has gone, or may themselves
 * wait for what this one is to read (a FUSE server). It waits for a buffer of its own, and looks again as that comes back.
 *
 * The mutex is the last that a thread takes, and held for a look at the lists alone: a queue's may be held meanwhile, and
 * no system call is made under either.
 *
 * They are not registered with io_uring. That saved nothing that could be measured, and each queue would have had to
 * register each block, and to give it up before the block goes.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct gio_stage_block {
    struct gio_stage_block *next;
    int kind;
    uint32_t used;      /* buffers */
    void *pages;
    uint64_t allocated; /* bytes */
    gio_stage stages[];
} block;

/* Of each kind of buffer. Eight large ones keep a device busy while the next are filled; of small ones as many have to be in
 * flight as make a queue deep. Four queues that stage at the same time get all of that. */
static const struct {
    uint32_t in_block, each, all; /* buffers: in a block, of one queue at most, of all queues that share them */
    uint32_t kept;                /* blocks that may stay free */
    uint64_t bytes;               /* of a buffer */
    int32_t huge;                 /* one small transfer needs no huge page */
} kinds[GIO_STAGE_KINDS] = {
    [GIO_STAGE_LARGE] = {1, 8, 32, 8, GIO_STAGE_BYTES, GIO_HUGE_AUTO},
    [GIO_STAGE_SMALL] = {128, 128, 512, 1, GIO_STAGE_SMALL_BYTES, GIO_HUGE_NO},
};

/* Zeros are an unlocked mutex on both systems. */
static struct {
    gio_mutex mutex;
    uint64_t queues;    /* that have staged anything, and are open */
    uint64_t allocated; /* bytes */
    struct {
        block *blocks;
        gio_stage *free;
        uint32_t empty;   /* blocks of which no buffer is used */
        uint32_t staging; /* queues that use any */
    } of[GIO_STAGE_KINDS];
} pool;

int gio_stage_kind(uint64_t nbytes)
{
    return nbytes <= GIO_STAGE_SMALL_BYTES ? GIO_STAGE_SMALL : GIO_STAGE_LARGE;
}

uint64_t gio_staging_allocated(void)
{
    gio_mutex_lock(&pool.mutex);
    uint64_t allocated = pool.allocated;
    gio_mutex_unlock(&pool.mutex);
    return allocated;
}

/* ---- blocks ------------------------------------------------------------------------------------------------ */

static block *make_block(int kind, int32_t *code)
{
    uint32_t count = kinds[kind].in_block;
    block *made = calloc(1, sizeof *made + count * sizeof made->stages[0]);

    if (made == NULL) {
        *code = gio_code_no_memory();
        return NULL;
    }
    *code = gio_pages_allocate(count * kinds[kind].bytes, kinds[kind].huge, &made->pages, &made->allocated);
    if (*code) {
        free(made);
        return NULL;
    }
    made->kind = kind;
    for (uint32_t i = 0; i < count; i++)
        made->stages[i] = (gio_stage){(char *)made->pages + i * kinds[kind].bytes, &made->stages[i] + 1, made};
    made->stages[count - 1].next = NULL;
    return made;
}

static void free_blocks(block *first)
{
    for (block *next; first; first = next) {
        next = first->next;
        gio_os_pages_free(first->pages, first->allocated);
        free(first);
    }
}

/* Puts blocks that nobody uses in front of `taken`, until there are `kept`. Mutex held. */
static block *take_out_empty(int kind, uint32_t kept, block *taken)
{
    for (block **link = &pool.of[kind].blocks, *at; pool.of[kind].empty > kept && (at = *link) != NULL;) {
        if (at->used) {
            link = &at->next;
            continue;
        }
        for (gio_stage **stage = &pool.of[kind].free; *stage;)
            if ((*stage)->block == at)
                *stage = (*stage)->next;
            else
                stage = &(*stage)->next;
        pool.of[kind].empty--;
        pool.allocated -= at->allocated;
        *link = at->next;
        at->next = taken;
        taken = at;
    }
    return taken;
}

/* ---- the buffers of a queue -------------------------------------------------------------------------------- */

/* Counts one up (+1) or down (-1). Mutex held. */
static void count_stage(gio_staging *own, int kind, int step)
{
    uint32_t before = own->used[kind];

    own->used[kind] += (uint32_t)step;
    if (before == 0 || own->used[kind] == 0)
        pool.of[kind].staging += (uint32_t)step;
}

/* Of those that stage at this moment, among them this one. Mutex held. */
static uint32_t share_of(const gio_staging *own, int kind)
{
    uint32_t queues = pool.of[kind].staging + (own->used[kind] == 0);
    return (uint32_t)gio_max(gio_min(kinds[kind].each, kinds[kind].all / queues), 1);
}

/* One that is free, or NULL. Mutex held. */
static gio_stage *take_free(int kind)
{
    gio_stage *stage = pool.of[kind].free;

    if (stage) {
        pool.of[kind].free = stage->next;
        pool.of[kind].empty -= stage->block->used++ == 0;
    }
    return stage;
}

int gio_stage_take(gio_staging *own, int kind, gio_stage **stage)
{
    *stage = NULL;
    gio_mutex_lock(&pool.mutex);
    int may = own->used[kind] < share_of(own, kind);
    if (may) {
        pool.queues += !own->joined;
        own->joined = 1;
        count_stage(own, kind, +1);
        *stage = take_free(kind);
    }
    gio_mutex_unlock(&pool.mutex);
    return may;
}

int32_t gio_stage_make(int kind, gio_stage **stage)
{
    int32_t code;
    block *made = make_block(kind, &code);

    gio_mutex_lock(&pool.mutex);
    if (made) {
        made->next = pool.of[kind].blocks;
        pool.of[kind].blocks = made;
        pool.of[kind].empty++;
        pool.allocated += made->allocated;
        made->stages[kinds[kind].in_block - 1].next = pool.of[kind].free;
        pool.of[kind].free = &made->stages[0];
    }
    *stage = take_free(kind); /* where none could be made, one that has come back meanwhile */
    gio_mutex_unlock(&pool.mutex);
    return *stage ? 0 : code;
}

void gio_stage_give(gio_staging *own, gio_stage *stage)
{
    int kind = stage->block->kind;

    gio_mutex_lock(&pool.mutex);
    count_stage(own, kind, -1);
    stage->next = pool.of[kind].free;
    pool.of[kind].free = stage;
    pool.of[kind].empty += --stage->block->used == 0;
    own->trims |= pool.of[kind].empty > kinds[kind].kept;
    gio_mutex_unlock(&pool.mutex);
}

void gio_stage_go_without(gio_staging *own, int kind)
{
    gio_mutex_lock(&pool.mutex);
    count_stage(own, kind, -1);
    gio_mutex_unlock(&pool.mutex);
}

/* ---- back to the system ------------------------------------------------------------------------------------ */

void gio_staging_trim(void)
{
    block *taken = NULL;

    gio_mutex_lock(&pool.mutex);
    for (int kind = 0; kind < GIO_STAGE_KINDS; kind++)
        taken = take_out_empty(kind, kinds[kind].kept, taken);
    gio_mutex_unlock(&pool.mutex);
    free_blocks(taken);
}

void gio_staging_leave(gio_staging *own)
{
    block *taken = NULL;

    gio_mutex_lock(&pool.mutex);
    pool.queues -= own->joined != 0;
    own->joined = 0;
    for (int kind = 0; kind < GIO_STAGE_KINDS; kind++)
        taken = take_out_empty(kind, pool.queues == 0 ? 0 : kinds[kind].kept, taken);
    gio_mutex_unlock(&pool.mutex);
    free_blocks(taken);
}

void gio_staging_before_fork(void)
{
    gio_mutex_lock(&pool.mutex);
}

/* The child has its parent's buffers as copies, and no use for them: what is in them is under way in the parent. */
void gio_staging_after_fork(int is_child)
{
    for (int kind = 0; kind < GIO_STAGE_KINDS && is_child; kind++) {
        free_blocks(pool.of[kind].blocks);
        memset(&pool.of[kind], 0, sizeof pool.of[kind]);
        pool.queues = pool.allocated = 0;
    }
    gio_mutex_unlock(&pool.mutex);
}
