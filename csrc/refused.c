/* refused.c: requests that the system refuses for now (EAGAIN: it is short of memory, as a rule). Each is started again after a
 * pause that grows, until it has been refused for so long that this is no moment any more. The same on every system.
 *
 * The queue's mutex is held in all of these, and nobody sleeps here: who waits for completions wakes up for the end of a pause,
 * and where nobody waits the pump or a worker does; `sync` has none of them, and waits while it submits.
 */
#include "internal.h"

/* Doubled each time. The longest is the pump's tick: nobody would look more often. */
static const int64_t FIRST_PAUSE_NS = 1000 * 1000, LAST_PAUSE_NS = 10 * 1000 * 1000;
/* Of pauses in all. Whoever is short of memory has written back some, or ended somebody, by then. What the system refuses for
 * ever is told. */
static const int64_t PATIENCE_NS = (int64_t)3 * 1000 * 1000 * 1000;

int gio_refused_add(gio_queue *queue, gio_request *request)
{
    if (request->refused_ns >= PATIENCE_NS)
        return 0;
    int64_t longer_ns = 2 * request->pause_ns < LAST_PAUSE_NS ? 2 * request->pause_ns : LAST_PAUSE_NS;
    request->pause_ns = request->refused_ns == 0 ? FIRST_PAUSE_NS : longer_ns;
    request->refused_ns += request->pause_ns;
    request->due_ns = gio_now_ns() + request->pause_ns;
    request->next = queue->refused;
    queue->refused = request;
    if (queue->workers)
        gio_workers_wake(queue->workers);
    if (queue->followers) /* they sleep for as long as they thought they could */
        gio_condition_wake_all(&queue->changed);
    return 1;
}

gio_request *gio_refused_take(gio_queue *queue)
{
    if (queue->refused == NULL)
        return NULL;
    int64_t now_ns = gio_now_ns();
    for (gio_request **place = &queue->refused; *place; place = &(*place)->next) {
        gio_request *request = *place;
        if (request->due_ns <= now_ns || request->operation->cancelling) {
            *place = request->next;
            return request;
        }
    }
    return NULL;
}

int64_t gio_refused_until(const gio_queue *queue, int64_t deadline_ns)
{
    for (const gio_request *at = queue->refused; at; at = at->next)
        if (deadline_ns < 0 || at->due_ns < deadline_ns)
            deadline_ns = at->due_ns;
    return deadline_ns;
}
