// A load generator: one epoll thread. Prints one line of JSON.
//
//   load closed PORT CONNECTIONS SECONDS HEADFILE BODYFILE   as fast as answers come
//   load open   PORT RATE        SECONDS HEADFILE BODYFILE   Poisson arrivals, whatever the answers do; latency counts from the
//                                                            time a request was due, so that waiting in line is not hidden
//   load sse    PORT STREAMS     SECONDS HEADFILE BODYFILE   so many streams at once, each begun anew when it ends
//
// HEADFILE holds the request line and headers without Content-Length and without the blank line. The first fifth of the time
// warms up and is not counted. Every answer must be a 200; anything else is an error. Times are in microseconds.
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
    printf(",\"%s\":{\"n\":%ld,\"mean\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, h->total,
           h->total ? h->sum / h->total / 1000 : -1, quantile(h, .5), quantile(h, .99), h->max / 1000.0);
}

typedef struct connection {
    int fd, busy, streaming;
    size_t sent;
    long begun, last, need;
    buffer in;
} connection;

static int poller, port;
static buffer request;
static histogram latency, forward, gap;
static long answers, errors, chunks, coalesced, counting;

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
    if (good && counting) {
        answers++;
        observe(&latency, now_ns() - c->begun);
    }
    if (!good) {
        if (!errors++) fprintf(stderr, "not a good answer: %.*s\n", (int)(c->in.used < 300 ? c->in.used : 300), c->in.at);
        close(c->fd);
        c->fd = -1;
    }
}

// Takes the stamps out of what has arrived of a stream; true when it has ended.
static int stamps(connection *c, long now) {
    char *at = c->in.at, *stop = at + c->in.used, *found;
    int got = 0;
    while ((found = memmem(at, stop - at, " T", 2)) && stop - found >= 21) {
        if (counting) {
            observe(&forward, now - atol(found + 2));
            chunks++;
        }
        got++;
        at = found + 21;
    }
    if (got && counting) {
        if (c->last) observe(&gap, now - c->last);
        if (got > 1 && c->last && now - c->last > 100000000L) coalesced += got - 1;
    }
    if (got) c->last = now;
    int ended = c->in.used >= 5 && !memcmp(stop - 5, "0\r\n\r\n", 5);
    size_t keep = stop - at < 32 ? stop - at : 32;
    drop(&c->in, c->in.used - keep);
    return ended;
}

static void take(connection *c, long now) {
    if (c->need < 0) {
        size_t head = head_length(&c->in);
        if (!head) return;
        if (c->in.used < 12 || memcmp(c->in.at, "HTTP/1.1 200", 12)) return end(c, 0);
        long body = content_length(c->in.at, head);
        c->streaming = body < 0;
        c->need = c->streaming ? 0 : (long)head + body;
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

static void keep_busy(connection *all, int count, long now) {
    for (int i = 0; i < count; i++)
        if (!all[i].busy) begin(&all[i], now);
}

int main(int argc, char **argv) {
    if (argc != 7) return fprintf(stderr, "usage: load closed|open|sse PORT N SECONDS HEADFILE BODYFILE\n"), 2;
    int open_loop = !strcmp(argv[1], "open");
    port = atoi(argv[2]);
    int wanted = atoi(argv[3]), count = open_loop ? 512 : wanted;
    double seconds = atof(argv[4]);
    settle();
    prepare(argv[5], argv[6]);
    poller = epoll_create1(0);
    connection *all = calloc(count, sizeof *all);
    for (int i = 0; i < count; i++) all[i].fd = -1;
    long start = now_ns(), counted_from = start + seconds * 2e8, stop = start + seconds * 1e9, due = start, late = 0;
    struct epoll_event events[1024];
    int turn = 0;
    for (long now; (now = now_ns()) < stop;) {
        counting = now >= counted_from;
        if (!open_loop) keep_busy(all, count, now);
        while (open_loop && due <= now) {
            connection *free_one = NULL;
            for (int i = 0; i < count && !free_one; i++, turn = (turn + 1) % count)
                if (!all[turn].busy) free_one = &all[turn];
            if (!free_one) {
                late++;
                break;
            }
            begin(free_one, due);
            due += -log(uniform()) / wanted * 1e9;
        }
        int ready = epoll_wait(poller, events, 1024, open_loop ? 0 : 1);
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
    double counted = (stop - counted_from) / 1e9;
    printf("{\"answers\":%ld,\"errors\":%ld,\"chunks\":%ld,\"coalesced\":%ld,\"saturated\":%ld,\"seconds\":%.3f,\"rps\":%.1f", answers,
           errors, chunks, coalesced, late, counted, answers / counted);
    print("latency", &latency);
    print("forward", &forward);
    print("gap", &gap);
    printf("}\n");
    return 0;
}
