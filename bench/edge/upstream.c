// A fake inference server: one epoll thread, HTTP/1.1 keep-alive, OpenAI's forms. Prints its port, then serves.
//
//   upstream [-b REPLY_BYTES] [-t TOKENS] [-p PORT]
//
// A body without "stream":true gets a fixed JSON reply of about REPLY_BYTES. With it, a chunked event stream of TOKENS events
// (or "max_tokens" of the body), each with the time of sending, `T` and 19 digits of nanoseconds, in its content. The model's
// name sets the pace: a name that ends in `-20ps` gets 20 events a second; any other as fast as the reader takes them.
#include "common.h"

typedef struct stream {
    int fd, writing;
    buffer in, out;
    long left, due, interval;
    struct stream *next;
} stream;

static int poller;
static stream *paced, *eager;  // streams in flight: those with a pace, and those without
static char *reply;
static size_t reply_size;
static long tokens = 128;

static void interest(stream *s, int writing) {
    if (s->writing == writing) return;
    s->writing = writing;
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &event);
}

static void flush(stream *s) {
    while (s->out.used) {
        ssize_t sent = write(s->fd, s->out.at, s->out.used);
        if (sent <= 0) break;
        drop(&s->out, sent);
    }
    interest(s, s->out.used > 0);
}

static void unlink_from(stream **list, stream *s) {
    for (; *list; list = &(*list)->next)
        if (*list == s) {
            *list = s->next;
            return;
        }
}

static void close_stream(stream *s) {
    unlink_from(&paced, s);
    unlink_from(&eager, s);
    close(s->fd);
    free(s->in.at);
    free(s->out.at);
    free(s);
}

static long number_after(const char *text, size_t size, const char *name, long otherwise) {
    char *found = memmem(text, size, name, strlen(name));
    return found ? atol(found + strlen(name)) : otherwise;
}

static void event(stream *s) {
    char data[320], framed[400];
    int size = snprintf(data, sizeof data,
                        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\","
                        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" T%019ld\"},\"finish_reason\":null}]}\n\n",
                        now_ns());
    int total = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", size, data);
    append(&s->out, framed, total);
    if (--s->left == 0) append(&s->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24);
    flush(s);
}

static void answer(stream *s, const char *body, size_t size) {
    if (!memmem(body, size, "\"stream\":true", 13) && !memmem(body, size, "\"stream\": true", 14)) {
        append(&s->out, reply, reply_size);
        flush(s);
        return;
    }
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    append(&s->out, head, sizeof head - 1);
    s->left = number_after(body, size, "\"max_tokens\":", tokens);
    char *pace = memmem(body, size, "ps\"", 3);
    long rate = 0;
    if (pace) {
        char *digits = pace;
        while (digits > body && digits[-1] >= '0' && digits[-1] <= '9') digits--;
        rate = atol(digits);
    }
    s->interval = rate ? 1000000000L / rate : 0;
    s->due = now_ns();
    stream **list = rate ? &paced : &eager;
    s->next = *list;
    *list = s;
    flush(s);
}

static void readable(stream *s) {
    char chunk[65536];
    ssize_t got = read(s->fd, chunk, sizeof chunk);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) close_stream(s);
        return;
    }
    append(&s->in, chunk, got);
    size_t head;
    while ((head = head_length(&s->in))) {
        long body = content_length(s->in.at, head);
        if (body < 0) body = 0;
        if (s->in.used < head + body) return;
        answer(s, s->in.at + head, body);
        drop(&s->in, head + body);
    }
}

static void pace(void) {
    long now = now_ns();
    for (stream *s = paced, *next; s; s = next) {
        next = s->next;
        while (s->left && s->due <= now) {
            event(s);
            s->due += s->interval;
        }
        if (!s->left) unlink_from(&paced, s);
    }
    for (stream *s = eager, *next; s; s = next) {
        next = s->next;
        if (s->left && !s->out.used) event(s);
        if (!s->left) unlink_from(&eager, s);
    }
}

static void prepare(long bytes) {
    char *text = malloc(bytes + 1);
    memset(text, 'x', bytes);
    text[bytes] = 0;
    char *body;
    int size = asprintf(&body,
                        "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,"
                        "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,"
                        "\"completion_tokens\":200,\"total_tokens\":220}}",
                        text);
    reply_size = asprintf(&reply, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, body);
}

int main(int argc, char **argv) {
    int option, port = 0;
    long bytes = 760;
    while ((option = getopt(argc, argv, "b:t:p:")) != -1) {
        if (option == 'b') bytes = atol(optarg);
        if (option == 't') tokens = atol(optarg);
        if (option == 'p') port = atoi(optarg);
    }
    settle();
    prepare(bytes);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = loopback(port);
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 16384)) return perror("listen"), 1;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[1024];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, events, 1024, eager ? 0 : paced ? 1 : -1);
        for (int i = 0; i < count; i++) {
            stream *s = events[i].data.ptr;
            if (!s) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    s = calloc(1, sizeof *s);
                    s->fd = fd;
                    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = s};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish);
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(s);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(s);
        }
        if (paced || eager) pace();
    }
}
