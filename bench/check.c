// SPDX-License-Identifier: GPL-2.0-only
/*
 * The compiled check of the benchmark: what a shell loop around virtme-ng runs in the guest today,
 * and what the floor runs. `check -4` or `check -6` makes one MPTCP connection over loopback, sends
 * data both ways, reads the options that the harness looks at, and exits with 0 if they make sense.
 *
 * Structures are those of linux/mptcp.h, declared here because distributions' headers are older.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROTO_MPTCP 262
#define LEVEL_MPTCP 284

enum { GET_INFO = 1, GET_TCPINFO = 2, GET_ADDRS = 3, GET_FULL = 4 };

#define PAYLOAD 20000
#define TOS 0x20

/* struct mptcp_subflow_data, before each array that is per subflow */
struct head {
	uint32_t size_head;
	uint32_t subflows;
	uint32_t size_kernel;
	uint32_t size_user;
} __attribute__((aligned(8)));

/* struct mptcp_full_info, up to the MPTCP_INFO in it */
struct full {
	uint32_t size_tcpinfo_kernel, size_tcpinfo_user;
	uint32_t size_subflow_kernel, size_subflow_user;
	uint32_t subflows;
	uint32_t room;
	uint64_t subflow_info;
	uint64_t tcp_info;
	uint8_t info[256];
} __attribute__((aligned(8)));

static void fail(const char *what)
{
	printf("check: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void require(int holds, const char *what)
{
	if (!holds) {
		printf("check: not so: %s\n", what);
		exit(1);
	}
}

static socklen_t address(int family, struct sockaddr_storage *any)
{
	memset(any, 0, sizeof(*any));
	any->ss_family = family;
	if (family == AF_INET) {
		((struct sockaddr_in *)any)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(struct sockaddr_in);
	}
	((struct sockaddr_in6 *)any)->sin6_addr = in6addr_loopback;
	return sizeof(struct sockaddr_in6);
}

/* Both ends of one connection, in one process: the queue of the listener completes it. */
static void join(int family, int ends[2])
{
	struct sockaddr_storage at;
	socklen_t size = address(family, &at);
	int listener = socket(family, SOCK_STREAM, PROTO_MPTCP);

	if (listener < 0)
		fail("no MPTCP socket");
	if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&at, &size))
		fail("cannot listen");
	ends[0] = socket(family, SOCK_STREAM, PROTO_MPTCP);
	if (ends[0] < 0 || connect(ends[0], (struct sockaddr *)&at, size))
		fail("cannot connect");
	ends[1] = accept(listener, NULL, NULL);
	if (ends[1] < 0)
		fail("cannot accept");
	close(listener);
}

static void transfer(int from, int to)
{
	static char sent[PAYLOAD], got[PAYLOAD];
	size_t have = 0;

	for (size_t i = 0; i < PAYLOAD; i++)
		sent[i] = (char)(i * 31 + from);
	if (write(from, sent, PAYLOAD) != PAYLOAD)
		fail("cannot write");
	while (have < PAYLOAD) {
		ssize_t more = read(to, got + have, PAYLOAD - have);

		if (more <= 0)
			fail("cannot read");
		have += more;
	}
	require(!memcmp(sent, got, PAYLOAD), "what was read is what was written");
}

static void look_at_info(int end)
{
	uint64_t info[32] = { 0 };
	socklen_t size = sizeof(info);
	uint8_t *flows = (uint8_t *)info;

	if (getsockopt(end, LEVEL_MPTCP, GET_INFO, info, &size))
		fail("MPTCP_INFO");
	require(size >= 40 && size < sizeof(info), "MPTCP_INFO has a plausible size");
	require(flows[0] == 0, "there is no subflow beside the first");
	/* mptcpi_write_seq, mptcpi_snd_una, mptcpi_rcv_nxt */
	require(info[2] && info[3] && info[4], "sequence numbers are counted");
}

/* An option that is an array with one element for each subflow: here one. */
static const void *per_subflow(int end, int option, uint32_t element, const char *what)
{
	static struct {
		struct head head;
		uint8_t room[1024];
	} answer;
	socklen_t size = sizeof(answer);

	memset(&answer, 0, sizeof(answer));
	answer.head.size_head = sizeof(answer.head);
	answer.head.size_user = element;
	if (getsockopt(end, LEVEL_MPTCP, option, &answer, &size))
		fail(what);
	require(answer.head.subflows == 1, "there is one subflow");
	require(answer.head.size_kernel > 0, "the kernel says how much it has");
	require(size > sizeof(answer.head), "the subflow is described");
	return answer.room;
}

static void look_at_subflows(int end, int family)
{
	const uint8_t *state = per_subflow(end, GET_TCPINFO, 104, "MPTCP_TCPINFO");

	require(state[0] == 1, "the subflow is established");

	const struct sockaddr_storage *pair =
		per_subflow(end, GET_ADDRS, 2 * sizeof(*pair), "MPTCP_SUBFLOW_ADDRS");

	require(pair[0].ss_family == family && pair[1].ss_family == family,
		"both addresses are of the family");
	/* the port is at the same place in both families */
	require(((struct sockaddr_in *)&pair[0])->sin_port !=
			((struct sockaddr_in *)&pair[1])->sin_port,
		"the ends have ports of their own");
}

static void look_at_everything(int end)
{
	uint8_t subflow[512] = { 0 }, tcp[512] = { 0 };
	struct full full = {
		.size_tcpinfo_user = sizeof(tcp),
		.size_subflow_user = sizeof(subflow),
		.room = 1,
		.subflow_info = (uintptr_t)subflow,
		.tcp_info = (uintptr_t)tcp,
	};
	socklen_t size = sizeof(full);

	if (getsockopt(end, LEVEL_MPTCP, GET_FULL, &full, &size)) {
		if (errno != EOPNOTSUPP)
			fail("MPTCP_FULL_INFO");
		return;
	}
	require(full.subflows == 1, "MPTCP_FULL_INFO knows one subflow");
	require(full.size_tcpinfo_kernel > 0 && full.size_subflow_kernel > 0,
		"MPTCP_FULL_INFO says how much there is");
	require(tcp[0] == 1, "MPTCP_FULL_INFO has the subflow established");
}

static void look_at_tos(int end)
{
	int value = TOS, back = 0;
	socklen_t size = sizeof(back);

	if (setsockopt(end, IPPROTO_IP, IP_TOS, &value, sizeof(value)) ||
	    getsockopt(end, IPPROTO_IP, IP_TOS, &back, &size))
		fail("IP_TOS");
	require(back == TOS && size == sizeof(back), "IP_TOS is read as it was set");
}

int main(int argc, char **argv)
{
	int family = argc == 2 && !strcmp(argv[1], "-6") ? AF_INET6 : AF_INET;
	int ends[2];

	setlinebuf(stdout);
	join(family, ends);
	transfer(ends[0], ends[1]);
	transfer(ends[1], ends[0]);
	for (int i = 0; i < 2; i++) {
		look_at_info(ends[i]);
		look_at_subflows(ends[i], family);
		look_at_everything(ends[i]);
		look_at_tos(ends[i]);
	}
	printf("check: %s ok\n", family == AF_INET ? "ipv4" : "ipv6");
	return 0;
}
