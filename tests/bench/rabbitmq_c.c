/* The C client, as its examples use it: publish, consume and acknowledge.
 *
 * rabbitmq_c HOST PORT USER PASSWORD VHOST EXCHANGE QUEUE TASK MODE BYTES JSON COUNT
 *
 * TASK and MODE are those of tests/bench/plan.py; the answer is a line of JSON,
 * as tests/bench/worker.py gives it. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define CHANNEL 1
#define PREFETCH 250
#define WINDOW 1000
#define WINDOW_BYTES (16 * 1024 * 1024)
#define PACE_NS 10000000L
#define SKIPPED 10

struct bench {
    amqp_connection_state_t connection;
    const char *exchange, *queue;
    size_t bytes;
    int json, windowed;
    char *body;
    /* Confirms: one flag a tag; all tags below `lowest` are confirmed. */
    char *confirmed;
    long published, outstanding, lowest;
};

static void fail(const char *what)
{
    fprintf(stderr, "rabbitmq_c: %s\n", what);
    exit(1);
}

static void check(struct bench *b, const char *what)
{
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(b->connection);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail(what);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void open_connection(struct bench *b, char **arguments)
{
    amqp_rpc_reply_t reply;
    b->connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(b->connection);
    if (!socket || amqp_socket_open(socket, arguments[1], atoi(arguments[2])))
        fail("cannot connect");
    reply = amqp_login(b->connection, arguments[5], 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
                       arguments[3], arguments[4]);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail("cannot log in");
    amqp_channel_open(b->connection, CHANNEL);
    check(b, "cannot open a channel");
    if (b->windowed) {
        amqp_confirm_select(b->connection, CHANNEL);
        check(b, "cannot select confirms");
    }
}

static void ask(struct bench *b)
{
    amqp_queue_declare(b->connection, CHANNEL, amqp_cstring_bytes(b->queue), 1, 0, 0, 0,
                       amqp_empty_table);
    check(b, "cannot declare the queue");
}

static void confirm(struct bench *b, long tag, int multiple)
{
    long first = multiple ? b->lowest : tag;
    for (long each = first; each <= tag; each++) {
        if (!b->confirmed[each]) {
            b->confirmed[each] = 1;
            b->outstanding--;
        }
    }
    if (multiple)
        b->lowest = tag + 1;
}

static void read_confirm(struct bench *b)
{
    amqp_frame_t frame;
    if (amqp_simple_wait_frame(b->connection, &frame) != AMQP_STATUS_OK)
        fail("the connection is lost");
    if (frame.frame_type != AMQP_FRAME_METHOD)
        return;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
        fail("something other than a confirm");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    confirm(b, (long)ack->delivery_tag, ack->multiple);
}

static void publish(struct bench *b, amqp_bytes_t body, long count)
{
    long window = (long)(WINDOW_BYTES / (b->bytes + 1));
    amqp_basic_properties_t properties;
    if (window > WINDOW)
        window = WINDOW;
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG |
                        AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.content_type =
        amqp_cstring_bytes(b->json ? "application/json" : "application/data");
    properties.content_encoding = amqp_cstring_bytes(b->json ? "utf-8" : "binary");
    properties.delivery_mode = 2;
    for (long i = 0; i < count; i++) {
        if (amqp_basic_publish(b->connection, CHANNEL, amqp_cstring_bytes(b->exchange),
                               amqp_cstring_bytes(b->queue), 0, 0, &properties, body))
            fail("cannot publish");
        if (!b->windowed)
            continue;
        b->published++;
        b->outstanding++;
        while (b->outstanding >= window) {
            read_confirm(b);
            amqp_maybe_release_buffers(b->connection);
        }
    }
    while (b->outstanding)
        read_confirm(b);
    if (!b->windowed)
        ask(b);
}

static void consume(struct bench *b, long count, long long *took)
{
    amqp_basic_qos(b->connection, CHANNEL, 0, PREFETCH, 0);
    check(b, "cannot set the prefetch count");
    amqp_basic_consume(b->connection, CHANNEL, amqp_cstring_bytes(b->queue), amqp_empty_bytes,
                       0, 0, 0, amqp_empty_table);
    check(b, "cannot consume");
    for (long i = 0; i < count; i++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(b->connection);
        amqp_rpc_reply_t reply = amqp_consume_message(b->connection, &envelope, NULL, 0);
        if (reply.reply_type != AMQP_RESPONSE_NORMAL)
            fail("cannot receive");
        if (took) {
            char text[32] = "";
            size_t length = envelope.message.body.len;
            memcpy(text, envelope.message.body.bytes, length < 31 ? length : 31);
            took[i] = now_ns() - atoll(text);
        }
        if (amqp_basic_ack(b->connection, CHANNEL, envelope.delivery_tag, 0))
            fail("cannot acknowledge");
        amqp_destroy_envelope(&envelope);
    }
    ask(b);
}

static void send_paced(struct bench *b, long count)
{
    long long due = now_ns();
    b->bytes = 32;
    for (long i = 0; i < count; i++) {
        char text[32];
        struct timespec until;
        due += PACE_NS;
        until.tv_sec = due / 1000000000LL;
        until.tv_nsec = due % 1000000000LL;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        snprintf(text, sizeof text, "%lld", now_ns());
        /* Not publish(): that asks the broker after each call. */
        amqp_basic_properties_t properties;
        properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
        properties.delivery_mode = 2;
        if (amqp_basic_publish(b->connection, CHANNEL, amqp_cstring_bytes(b->exchange),
                               amqp_cstring_bytes(b->queue), 0, 0, &properties,
                               amqp_cstring_bytes(text)))
            fail("cannot publish");
    }
    ask(b);
}

static void timed(struct bench *b, const char *task, long count)
{
    amqp_bytes_t body = {b->bytes, b->body};
    if (!strcmp(task, "publish"))
        publish(b, body, count < 100 ? 4 : 100); /* warm up, as the others do */
    double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    if (!strcmp(task, "publish"))
        publish(b, body, count);
    else
        consume(b, count, NULL);
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = seconds_of(CLOCK_MONOTONIC) - wall;
    printf("{\"count\": %ld, \"cpu\": %.9f, \"wall\": %.9f}\n", count, cpu, wall);
}

static void receive(struct bench *b, long count)
{
    long long *took = calloc((size_t)count, sizeof *took);
    if (!took)
        fail("no memory");
    consume(b, count, took);
    printf("{\"count\": %ld, \"seconds\": [", count);
    for (long i = SKIPPED; i < count; i++)
        printf("%s%.9f", i > SKIPPED ? ", " : "", (double)took[i] / 1e9);
    printf("]}\n");
    free(took);
}

int main(int argc, char **arguments)
{
    static const char feed[] = "{\"action\":\"import\",\"feed_url\":"
                               "\"http://example.com/news/feed.atom\",\"id\":1234567890123}";
    struct bench bench = {.lowest = 1};
    if (argc != 13)
        fail("12 arguments are wanted");
    const char *task = arguments[8];
    long count = atol(arguments[12]);
    bench.exchange = arguments[6];
    bench.queue = arguments[7];
    bench.windowed = !strcmp(arguments[9], "window");
    bench.bytes = (size_t)atol(arguments[10]);
    bench.json = atoi(arguments[11]);
    bench.body = malloc(bench.bytes + sizeof feed);
    bench.confirmed = calloc((size_t)count + 200, 1);
    if (!bench.body || !bench.confirmed)
        fail("no memory");
    memset(bench.body, 'x', bench.bytes);
    if (bench.json)
        memcpy(bench.body, feed, sizeof feed - 1);
    open_connection(&bench, arguments);
    if (!strcmp(task, "send"))
        send_paced(&bench, count);
    else if (!strcmp(task, "receive"))
        receive(&bench, count);
    else
        timed(&bench, task, count);
    if (!strcmp(task, "send"))
        printf("{\"count\": %ld}\n", count);
    amqp_connection_close(bench.connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(bench.connection);
    free(bench.confirmed);
    free(bench.body);
    return 0;
}
