# SPDX-License-Identifier: GPL-2.0-only
"""Faults that are chosen by chance: what is broken, how, and what is left alone."""

from __future__ import annotations

from bench.faults import chance, source

SOURCE = """\
static int mptcp_one(struct sock *sk, int value)
{
	struct mptcp_sock *msk = mptcp_sk(sk);
	int err = 0;

	if (value < 0)
		return -EINVAL;
	lock_sock(sk);
	if (value > 3) {
		msk->count = value;
		do_it(sk, value);
	} else if (value == 2) {
		msk->flags |= 1;
	}
	if (value == 5)
		msk->last = 1;
	else
		msk->last = 2;
	pr_debug("%d", value);
	call(sk,
		value);
	msk->count++;
	release_sock(sk);
	return err;
}
"""
HEADER = "#define __MPTCP_PROTOCOL_H\n"


def read(file: str) -> str:
    if file == "net/mptcp/sockopt.c":
        return SOURCE
    if file == source.PROTOCOL:
        return HEADER
    if file == source.MAKEFILE:
        return "mptcp-y := protocol.o\n"
    raise FileNotFoundError(file)


def anchors() -> list[str]:
    chosen = sorted(chance.choose(read, 100, 1), key=lambda fault: fault.name)
    return [fault.edits[0].anchor for fault in chosen]


def test_conditions_statements_and_errors_are_broken() -> None:
    assert anchors() == [
        "msk->count = value;",
        "do_it(sk, value);",
        "if (value == 2)",
        "msk->flags |= 1;",
        "if (value == 5)",
        "msk->count++;",
        "if (value < 0)",
        "return -EINVAL;",
        "if (value > 3)",
    ]


def test_each_fits_the_source() -> None:
    text = source.patched(chance.choose(read, 100, 1), read)["net/mptcp/sockopt.c"]
    assert "if (FAULT(sockopt_6) ? !(value < 0) : !!(value < 0))\n" in text
    assert "return FAULT(sockopt_7) ? 0 : -EINVAL;" in text
    assert "if (FAULT(sockopt_9) ? !(value > 3) : !!(value > 3)) {" in text
    assert "} else if (FAULT(sockopt_12) ? !(value == 2) : !!(value == 2)) {" in text
    assert "if (!FAULT(sockopt_10)) msk->count = value;" in text


def test_locks_messages_and_pieces_of_statements_stay() -> None:
    text = source.patched(chance.choose(read, 100, 1), read)["net/mptcp/sockopt.c"]
    for line in ("\tlock_sock(sk);", "\tpr_debug(", "\tcall(sk,\n\t\tvalue);", "\tint err = 0;"):
        assert line in text
    # Before an else no condition may be put: it would take the else.
    assert "\t\tmsk->last = 1;\n" in text


def test_a_seed_makes_the_choice() -> None:
    few = [[fault.name for fault in chance.choose(read, 3, seed)] for seed in (1, 1, 2)]
    assert few[0] == few[1] != few[2]
