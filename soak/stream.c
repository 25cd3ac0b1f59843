#include "stream.h"

#include <sys/mman.h>
#include <unistd.h>

/* How many neighbours of the expected message are compared with the message that arrived. */
#define NEAR 64

static uint64_t
mix (uint64_t a, uint64_t b)
{
    uint64_t z = a + (b + 1) * UINT64_C (0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t
dice_roll (struct dice *dice)
{
    dice->state++;
    return mix (dice->state, 0);
}

uint32_t
dice_below (struct dice *dice, uint32_t below)
{
    return (uint32_t) ((dice_roll (dice) >> 32) * below >> 32);
}

uint32_t
stream_length (const struct stream *stream, uint64_t number)
{
    /* Of a hundred messages: 10 are empty, 60 shorter than the first of these, 20 shorter than the second, ... */
    static const struct {
        uint32_t share, below;
    } classes[] = {{60, 129}, {20, 4097}, {7, 65537}, {2, 1000001}};
    struct dice dice = {mix (stream->seed, number)};
    uint32_t share = dice_below (&dice, 100);

    if (stream->is_flat) {
        return dice_below (&dice, stream->largest + 1);
    }
    if (share < 10) {
        return 0;
    }
    share -= 10;
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (share < classes[i].share) {
            uint32_t below = classes[i].below;
            return dice_below (&dice, below <= stream->largest ? below : stream->largest + 1);
        }
        share -= classes[i].share;
    }
    return dice_below (&dice, 2) == 0 ? stream->largest : dice_below (&dice, stream->largest + 1);
}

/* The pattern: words of a congruential generator, whose high bits are mixed into the low ones. */
static uint64_t
begin_pattern (const struct stream *stream, uint64_t number)
{
    return mix (~stream->seed, number);
}

static uint64_t
next_word (uint64_t *state)
{
    *state = *state * UINT64_C (6364136223846793005) + UINT64_C (1442695040888963407);
    return *state ^ (*state >> 32);
}

void
stream_fill (const struct stream *stream, uint64_t number, char *payload, uint32_t length)
{
    uint64_t state = begin_pattern (stream, number);

    for (uint32_t at = 0; at < length; at += sizeof state) {
        uint64_t word = next_word (&state);
        uint32_t left = length - at;
        memcpy (payload + at, &word, left < sizeof word ? left : sizeof word);
    }
}

static bool
has_pattern (const struct stream *stream, uint64_t number, const char *payload, uint32_t length)
{
    uint64_t state = begin_pattern (stream, number);

    for (uint32_t at = 0; at < length; at += sizeof state) {
        uint64_t word = next_word (&state);
        uint32_t left = length - at;
        if (memcmp (payload + at, &word, left < sizeof word ? left : sizeof word) != 0) {
            return false;
        }
    }
    return true;
}

static char
type_of (enum verb verb, int lane, uint64_t number)
{
    return (char) ((int) verb | lane << 4 | (int) (number & 3) << 6);
}

enum verb
verb_of (const struct ipc_message *m)
{
    return (enum verb) (m->type & 15);
}

int
lane_of (const struct ipc_message *m)
{
    return m->type >> 4 & 3;
}

struct ipc_message
stream_next (struct stream *stream, enum verb verb, int lane, char *room)
{
    uint64_t number = stream->next++;
    struct ipc_message m;

    m.type = type_of (verb, lane, number);
    m.length = stream_length (stream, number);
    m.payload = m.length == 0 ? NULL : room;
    stream_fill (stream, number, room, m.length);
    return m;
}

static bool
is_message (const struct stream *stream, uint64_t number, const struct ipc_message *m)
{
    return (m->type >> 6 & 3) == (int) (number & 3) && m->length == stream_length (stream, number)
        && has_pattern (stream, number, m->payload, m->length);
}

void
stream_take (struct stream *stream, const struct ipc_message *m)
{
    uint64_t expected = stream->next++;

    if (is_message (stream, expected, m)) {
        if (m->length > 0 && m->payload[m->length] != '\0') {
            broken (CORRUPT, "no NUL after message %llu", (unsigned long long) expected);
        }
        return;
    }
    for (uint64_t n = 1; n <= NEAR; n++) {
        if (is_message (stream, expected + n, m)) {
            broken (LOST, "%llu from message %llu on", (unsigned long long) n, (unsigned long long) expected);
            stream->next += n;
            return;
        }
        if (n <= expected && is_message (stream, expected - n, m)) {
            broken (DOUBLED, "message %llu instead of %llu", (unsigned long long) (expected - n),
                    (unsigned long long) expected);
            stream->next--;
            return;
        }
    }
    broken (CORRUPT, "message %llu: %u bytes, and %u belong there", (unsigned long long) expected,
            (unsigned) m->length, (unsigned) stream_length (stream, expected));
}

int
file_of (const struct stream *stream, uint64_t number)
{
    char bytes[FILE_SIZE];
    int fd = memfd_create ("soak", MFD_CLOEXEC);

    stream_fill (stream, ~number, bytes, sizeof bytes);
    if (fd == -1 || write (fd, bytes, sizeof bytes) != (ssize_t) sizeof bytes) {
        give_up ("memfd_create");
    }
    return fd;
}

void
check_file (const struct stream *stream, uint64_t number, int fd)
{
    char bytes[FILE_SIZE + 1];

    if (pread (fd, bytes, sizeof bytes, 0) != FILE_SIZE || ! has_pattern (stream, ~number, bytes, FILE_SIZE)) {
        broken (CORRUPT, "not the file that was sent with message %llu", (unsigned long long) number);
    }
}
