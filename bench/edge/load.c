// A load generator: one epoll thread. Prints one line of JSON.
//
//   load closed PORT CONNECTIONS SECONDS HEADFILE BODYFILE [STATUS]   as fast as answers come
//   load open   PORT RATE        SECONDS HEADFILE BODYFILE [STATUS]   Poisson arrivals, whatever the answers do; latency counts
//                                                                     from the time a request was due, so that waiting in line
//                                                                     is not hidden
//   load sse    PORT STREAMS     SECONDS HEADFILE BODYFILE [STATUS]   so many streams at once, each begun anew when it ends
//   load hold   PORT REQUESTS    SECONDS HEADFILE BODYFILE [STATUS]   so many requests, 5,000 a second, each on a connection of
//                                                                     its own; ends when all are answered, or with SECONDS
//
// HEADFILE holds the request line and headers without Content-Length and without the blank line. Every answer must have
// STATUS (200), and a Retry-After if that is 503; anything else is an error. The first fifth of the time warms up and is not
// counted (but for hold), except in "all_answers" and "all_chunks". Times are in microseconds; "last_ns" is when the last answer
// came, by the monotonic clock.
#define _GNU_SOURCE
#include "common.h"

#include <math.h>

// Log-linear histogram of nanoseconds: 64 steps per power of two, so 1.6 % wide at most.
#define STEPS 4096
typedef struct {
    long count[STEPS], total;
    double sum;
    long max;
} histogram;

static void observe(histogram *h, long ns) {
    if (ns < 0) ns = 0;
    int shift = ns < 64 ? 0 : 57 - __builtin_clzl(ns);
    long at = ns < 64 ? ns : (long)shift * 64 + (ns >> shift);
    h->count[at < STEPS ? at : STEPS - 1]++;
    h->total++;
    h->sum += ns;
    if (ns > h->max) h->max = ns;
}

static double quantile(const histogram *h, double q) {
    long wanted = ceil(q * h->total), seen = 0;
    for (long at = 0; at < STEPS; at++) {
        seen += h->count[at];
        if (seen >= wanted && h->total) {
            long shift = at < 128 ? 0 : at / 64 - 1;
            return (double)((at - shift * 64) << shift) / 1000;
        }
    }
    return -1;
}

static void print(const char *name, const histogram *h) {
    printf(",\"%s\":{\"n\":%ld,\"mean\":%.1f,\"p50\":%.1f,\"p95\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, h->total,
           h->total ? h->sum / h->total / 1000 : -1, quantile(h, .5), quantile(h, .95), quantile(h, .99), h->max / 1000.0);
}

typedef struct connection {
    int fd, busy, streaming, closing;
    size_t sent;
    long begun, last, need;
    buffer in;
} connection;

static int poller, port;
static buffer request;
static const char *status = "200";
static histogram latency, forward, gap;
static long answers, all_answers, errors, chunks, all_chunks, coalesced, last_answer, counting;

static void link_up(connection *c) {
    struct sockaddr_in address = loopback(port);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connect(c->fd, (void *)&address, sizeof address);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void push(connection *c) {
    while (c->busy && c->sent < request.used) {
        ssize_t sent = send(c->fd, request.at + c->sent, request.used - c->sent, 0);
        if (sent <= 0) return;
        c->sent += sent;
    }
}

static void begin(connection *c, long due) {
    c->busy = 1;
    c->sent = 0;
    c->begun = due;
    c->last = 0;
    c->need = -1;
    c->in.used = 0;
    if (c->fd < 0) link_up(c);
    push(c);
}

static void end(connection *c, int good) {
    c->busy = 0;
    if (good) {
        all_answers++;
        last_answer = now_ns();
        answers += counting;
        if (counting) observe(&latency, last_answer - c->begun);
    }
    if (good && c->closing) {
        close(c->fd);
        c->fd = -1;
    }
    if (!good) {
        if (!errors++) fprintf(stderr, "not a good answer: %.*s\n", (int)(c->in.used < 300 ? c->in.used : 300), c->in.at);
        close(c->fd);
        c->fd = -1;
    }
}

// Takes the stamps out of what has arrived of a stream; true when it has ended. Chunks are coalesced when they arrive together
// though the first was sent 100 ms before the last.
static int stamps(connection *c, long now) {
    char *at = c->in.at, *stop = at + c->in.used, *found;
    long got = 0, first = 0, sent = 0;
    while ((found = memmem(at, stop - at, " T", 2)) && stop - found >= 21) {
        sent = atol(found + 2);
        if (!got++) first = sent;
        if (counting) observe(&forward, now - sent);
        at = found + 21;
    }
    all_chunks += got;
    if (got && counting) {
        chunks += got;
        if (c->last) observe(&gap, now - c->last);
        if (sent - first > 100000000L) coalesced += got;
    }
    if (got) c->last = now;
    int ended = c->in.used >= 5 && !memcmp(stop - 5, "0\r\n\r\n", 5);
    size_t keep = stop - at < 32 ? stop - at : 32;
    drop(&c->in, c->in.used - keep);
    return ended;
}

static int as_expected(const char *head, size_t size) {
    if (size < 12 || memcmp(head, "HTTP/1.1 ", 9) || memcmp(head + 9, status, 3)) return 0;
    return strcmp(status, "503") || header(head, size, "retry-after");
}

static void take(connection *c, long now) {
    if (c->need < 0) {
        size_t head = head_length(&c->in);
        if (!head) return;
        if (!as_expected(c->in.at, head)) return end(c, 0);
        long body = content_length(c->in.at, head);
        c->streaming = body < 0;
        const char *then = header(c->in.at, head, "connection");
        c->closing = then && !strncasecmp(then + 1, "close", 5);
        c->need = c->streaming ? 0 : body;
        drop(&c->in, head);  // a date of Tuesday looks like a stamp
    }
    if (c->streaming ? stamps(c, now) : (long)c->in.used >= c->need) end(c, 1);
}

static void readable(connection *c) {
    static char chunk[1 << 18];
    for (;;) {
        ssize_t got = recv(c->fd, chunk, sizeof chunk, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            if (c->busy) return end(c, 0);
            close(c->fd);
            c->fd = -1;
            return;
        }
        append(&c->in, chunk, got);
        if (c->busy) take(c, now_ns());
        if (c->fd < 0) return;
    }
}

static void load_file(buffer *into, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) exit((perror(path), 2));
    char chunk[65536];
    for (size_t got; (got = fread(chunk, 1, sizeof chunk, file));) append(into, chunk, got);
    fclose(file);
}

static void prepare(const char *head, const char *body) {
    buffer content = {0};
    load_file(&content, body);
    load_file(&request, head);
    while (request.used && (request.at[request.used - 1] == '\n' || request.at[request.used - 1] == '\r')) request.used--;
    char length[64];
    append(&request, length, sprintf(length, "\r\nContent-Length: %zu\r\n\r\n", content.used));
    append(&request, content.at, content.used);
}

static double uniform(void) {  // a fixed sequence, so that every candidate sees the same arrivals
    static unsigned long state = 88172645463325252UL;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return ((state >> 11) + 1) / 9007199254740993.0;
}

static connection *all;
static int count;

static void keep_busy(long now) {
    for (int i = 0; i < count; i++)
        if (!all[i].busy) begin(&all[i], now);
}

// Begins what is due; returns when the next request is, which is past where no connection was free.
static long arrivals(long due, long now, int rate) {
    for (int i = 0; due <= now; due += -log(uniform()) / rate * 1e9) {
        while (i < count && all[i].busy) i++;
        if (i == count) break;
        begin(&all[i], due);
    }
    return due;
}

static int open_some(int opened, long now, long start) {
    for (; opened < count && start + opened * 200000L <= now; opened++) begin(&all[opened], now);
    return opened;
}

static void wait_and_serve(long nanoseconds) {
    static struct epoll_event events[1024];
    struct timespec wait = {.tv_nsec = nanoseconds < 0 ? 0 : nanoseconds > 1000000 ? 1000000 : nanoseconds};
    int ready = epoll_pwait2(poller, events, 1024, &wait, NULL);
    for (int i = 0; i < ready; i++) {
        connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) push(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    }
}

static void report(double seconds) {
    printf("{\"answers\":%ld,\"all_answers\":%ld,\"errors\":%ld,\"chunks\":%ld,\"all_chunks\":%ld,\"coalesced\":%ld,"
           "\"last_ns\":%ld,\"seconds\":%.3f",
           answers, all_answers, errors, chunks, all_chunks, coalesced, last_answer, seconds);
    print("latency", &latency);
    print("forward", &forward);
    print("gap", &gap);
    printf("}\n");
}

int main(int argc, char **argv) {
    if (argc < 7) return fprintf(stderr, "usage: load closed|open|sse|hold PORT N SECONDS HEADFILE BODYFILE [STATUS]\n"), 2;
    int open_loop = !strcmp(argv[1], "open"), hold = !strcmp(argv[1], "hold"), wanted = atoi(argv[3]), opened = 0;
    port = atoi(argv[2]);
    if (argc > 7) status = argv[7];
    settle();
    prepare(argv[5], argv[6]);
    poller = epoll_create1(0);
    count = open_loop ? 1024 : wanted;
    all = calloc(count, sizeof *all);
    for (int i = 0; i < count; i++) all[i].fd = -1;
    long start = now_ns(), stop = start + atof(argv[4]) * 1e9, counted_from = hold ? start : start + (stop - start) / 5, due = start;
    for (long now; (now = now_ns()) < stop && !(hold && all_answers + errors == count);) {
        counting = now >= counted_from;
        if (open_loop) due = arrivals(due, now, wanted);
        else if (hold) opened = open_some(opened, now, start);
        else keep_busy(now);
        wait_and_serve(open_loop && due > now ? due - now_ns() : 1000000);
    }
    if (hold) errors += count - all_answers - errors;  // nothing came
    report((now_ns() - counted_from) / 1e9);
    return 0;
}
