// What the load generator and the fake upstream share: time, sockets, growing buffers.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

typedef struct {
    char *at;
    size_t used, room;
} buffer;

static void append(buffer *b, const char *data, size_t size) {
    if (b->used + size > b->room) {
        b->room = (b->used + size) * 2;
        b->at = realloc(b->at, b->room);
    }
    memcpy(b->at + b->used, data, size);
    b->used += size;
}

static void drop(buffer *b, size_t size) {
    b->used -= size;
    memmove(b->at, b->at + size, b->used);
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// Ends with its parent, wakes up on time, and may open as many sockets as the system allows.
static void settle(void) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

// Length of the head including its blank line, 0 when it is not all there.
static size_t head_length(const buffer *b) {
    char *end = memmem(b->at, b->used, "\r\n\r\n", 4);
    return end ? (size_t)(end - b->at) + 4 : 0;
}

// Where the value of the header `name` (lower case) begins, or NULL.
static const char *header(const char *head, size_t size, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 1; i + length + 1 < size; i++)
        if (head[i - 1] == '\n' && head[i + length] == ':' && !strncasecmp(head + i, name, length)) return head + i + length + 1;
    return NULL;
}

static long content_length(const char *head, size_t size) {
    const char *value = header(head, size, "content-length");
    return value ? atol(value) : -1;
}
