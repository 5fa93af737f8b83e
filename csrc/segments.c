/* segments.c: what there is to know of a list of segments before it is submitted. Pure: looks at addresses and lengths, and
 * never at what is there. */
#include "internal.h"

#include <stdlib.h>

void gio_segments_describe(const gio_segment *segments, uint64_t count, uint64_t page_size, gio_segments_facts *facts)
{
    uint64_t loose = count, nbytes = 0, longest = 0;

    for (uint64_t i = count; i-- > 0;) {
        const gio_segment *segment = &segments[i];
        int is_page = segment->address % page_size == 0;
        int is_whole = segment->length % page_size == 0 || i == count - 1;
        if (segment->length != 0 && !(is_page && is_whole))
            loose = i;
        nbytes += segment->length;
        longest = gio_max(longest, segment->length);
    }
    facts->nbytes = nbytes;
    facts->longest = longest;
    facts->last = count ? segments[count - 1].length : 0;
    facts->loose = loose;
}

void gio_segments_make(void *const *addresses, const uint64_t *lengths, uint64_t count, uint64_t page_size,
                       gio_segment *segments, gio_segments_facts *facts)
{
    for (uint64_t i = 0; i < count; i++)
        segments[i] = (gio_segment){(uint64_t)(uintptr_t)addresses[i], lengths[i]};
    gio_segments_describe(segments, count, page_size, facts);
}

static int by_address(const void *a_, const void *b_)
{
    const gio_segment *a = a_, *b = b_;
    return a->address < b->address ? -1 : a->address > b->address;
}

int32_t gio_segments_are_distinct(const gio_segment *segments, uint64_t count, int32_t *distinct)
{
    gio_segment few[64], *sorted = few;
    uint64_t filled = 0;

    if (count > sizeof few / sizeof few[0] && (sorted = malloc((size_t)count * sizeof *sorted)) == NULL)
        return gio_code_no_memory();
    for (uint64_t i = 0; i < count; i++)
        if (segments[i].length != 0)
            sorted[filled++] = segments[i];
    qsort(sorted, (size_t)filled, sizeof *sorted, by_address);
    *distinct = 1;
    for (uint64_t i = 1; i < filled; i++)
        if (sorted[i].address - sorted[i - 1].address < sorted[i - 1].length)
            *distinct = 0;
    if (sorted != few)
        free(sorted);
    return 0;
}
