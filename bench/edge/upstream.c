// A fake inference server: one epoll thread, HTTP/1.1 keep-alive. Prints its port, then serves.
//
//   upstream [-b REPLY_BYTES] [-t TOKENS] [-p PORT]
//
// GET tells that all is well. A body without "stream":true gets a fixed JSON reply of about REPLY_BYTES, in the form of the
// path: OpenAI's, TGI's (/, /generate) or llama.cpp's (/completion). With it, a chunked event stream of TOKENS events (or
// "max_tokens" of the body), each with the time of sending, ` T` and 19 digits of nanoseconds, in its content. The end of the
// model's name sets the pace: after `-20ps`, 20 events a second, beginning at any point of the first twentieth; else as fast as
// the reader takes them. Names that end in -slow are answered after 100 ms; -hang, -garbage, -short and -cut get no answer, no
// HTTP, less than was announced, and a stream that breaks off.
#define _GNU_SOURCE
#include "common.h"

typedef struct stream {
    int fd, writing;
    buffer in, out;
    long left, due, interval;
    const buffer *late;  // a whole reply that is to come
    struct stream *next;
} stream;

static int poller;
static stream *paced, *eager;  // streams in flight: those with a pace, and those without
static buffer info, openai, completion, tgi_list, tgi_object, llamacpp;  // replies
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

static const char stream_head[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

static void event(stream *s) {
    if (s->late) {
        append(&s->out, s->late->at, s->late->used);
        s->late = NULL;
        s->left = 0;
        return flush(s);
    }
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

static int said(const char *body, size_t size, const char *what) { return memmem(body, size, what, strlen(what)) != NULL; }

// Does as the name of the model says, if that is to fail; true when the connection is lost by it.
static int fails(stream *s, const char *body, size_t size) {
    if (said(body, size, "-garbage\"")) append(&s->out, "SMTP/7 banana\r\n\r\n", 18);
    else if (said(body, size, "-short\"")) append(&s->out, openai.at, openai.used - 100);
    else if (said(body, size, "-cut\"")) append(&s->out, stream_head, sizeof stream_head - 1);
    else return 0;
    if (said(body, size, "-cut\"")) s->left = 3, event(s), event(s);
    flush(s);
    close_stream(s);
    return 1;
}

static void whole(stream *s, const char *head, const char *body, size_t size) {
    const char *path = strchr(head, ' ') + 1;
    const buffer *reply = &openai;
    if (*head == 'G') reply = &info;
    else if (!strncmp(path, "/ ", 2)) reply = &tgi_list;
    else if (!strncmp(path, "/generate ", 10)) reply = &tgi_object;
    else if (!strncmp(path, "/completion ", 12)) reply = &llamacpp;
    else if (!strncmp(path, "/v1/completions ", 16)) reply = &completion;
    if (said(body, size, "-slow\"")) {
        s->late = reply;
        s->left = 1;
        s->due = now_ns() + 100000000L;
        s->next = paced;
        paced = s;
        return;
    }
    append(&s->out, reply->at, reply->used);
    flush(s);
}

static void begin_stream(stream *s, const char *body, size_t size) {
    append(&s->out, stream_head, sizeof stream_head - 1);
    s->left = number_after(body, size, "\"max_tokens\":", tokens);
    const char *pace = memmem(body, size, "ps\"", 3), *digits = pace;
    while (digits && digits > body && digits[-1] >= '0' && digits[-1] <= '9') digits--;
    long rate = digits ? atol(digits) : 0;
    s->interval = rate ? 1000000000L / rate : 0;
    s->due = now_ns() + (rate ? random() % s->interval : 0);
    stream **list = rate ? &paced : &eager;
    s->next = *list;
    *list = s;
    flush(s);
}

// Answers one request; true when the connection is lost by it.
static int answer(stream *s, const char *head, const char *body, size_t size) {
    if (strncmp(head, "GET ", 4) && strncmp(head, "POST ", 5)) return close_stream(s), 1;  // routers try gRPC first
    if (said(body, size, "-hang\"")) return 0;
    if (fails(s, body, size)) return 1;
    if (said(body, size, "\"stream\":true") || said(body, size, "\"stream\": true")) begin_stream(s, body, size);
    else whole(s, head, body, size);
    return 0;
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
        if (answer(s, s->in.at, s->in.at + head, body)) return;
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

static void prepare(buffer *reply, long bytes, const char *before, const char *after) {
    char head[128];
    append(reply, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %ld\r\n\r\n",
                                strlen(before) + bytes + strlen(after)));
    append(reply, before, strlen(before));
    for (long i = 0; i < bytes; i++) append(reply, "x", 1);
    append(reply, after, strlen(after));
}

static void prepare_all(long bytes) {
    prepare(&info, 0, "{\"status\":\"ok\",\"model_id\":\"bench\",\"model_path\":\"bench\",\"served_model_name\":\"bench\"", "}");
    prepare(&openai, bytes,
            "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{"
            "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
            "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":200,\"total_tokens\":220}}");
    prepare(&completion, bytes, "{\"id\":\"cmpl-bench\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"",
            "\",\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":200}}");
    prepare(&tgi_list, bytes, "[{\"generated_text\":\"", "\"}]");
    prepare(&tgi_object, bytes, "{\"generated_text\":\"", "\"}");
    prepare(&llamacpp, bytes, "{\"content\":\"",
            "\",\"stop\":true,\"stop_type\":\"eos\",\"tokens_predicted\":200,\"tokens_evaluated\":20,\"truncated\":false}");
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
    prepare_all(bytes);
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
