#!/usr/bin/env python3
"""Measures how long writing clients wait when the leader of three nodes fails.

usage: scripts/measure_failover.py [--rounds N] [--faults kill,term,cut,pause] [--dir DIR] [--election-timeout MIN-MAX] [-v]

In each round two clients at each node register names as fast as they are answered, the leader is
  kill    killed with -9,
  term    stopped with SIGTERM,
  cut     cut off from all others: packets are dropped, no socket is closed (needs root, ip and nft),
  pause   stopped with SIGSTOP (in place of `cut` where that is not possible),
and is brought back after some seconds; the next round begins when it has caught up. Measured are the longest
time between two successful writes after the fault, of the clients at the nodes that survive, and the errors of
these clients. Needs the optimised binaries (`make build`; CARGO_TARGET_DIR is honoured). The output goes into
docs/performance.md.
"""

import argparse
import collections
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import network
from nodes import HEARTHD, NSCTL, Hearth, end_cleanly, environment, file_system, machine, sync_time, want

CLIENTS_A_NODE = 2
# Seconds of writing before the fault, and after it.
BEFORE = 1.0
AFTER = {"kill": 3.0, "term": 3.0, "cut": 5.0, "pause": 5.0}
TITLES = {"kill": "killed with -9", "term": "stopped with SIGTERM", "cut": "cut off, no socket closed",
          "pause": "stopped with SIGSTOP, no socket closed"}
NANO = 1e9

Round = collections.namedtuple("Round", "gap common_gap errors rate")


class Writers:
    """One `nsctl bench` per node, each of which logs its calls."""

    def __init__(self, cluster, folder, seconds):
        self.logs, self.processes = {}, []
        for node, endpoint in zip(cluster.nodes, cluster.endpoints):
            self.logs[node.number] = os.path.join(folder, "calls%d" % node.number)
            command = cluster.client_prefix + [
                NSCTL, "-o", "json", "--endpoints", endpoint, "--timeout", "30", "bench", "register", "--reuse", "--keep",
                "--reconnect", "--threads", "1", "--connections", str(CLIENTS_A_NODE), "--warm-up", "0",
                "--seconds", str(seconds), "--log", self.logs[node.number]]
            self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                                   env=environment()))

    def wait(self):
        for process in self.processes:
            _, errors = process.communicate()
            # Exit code 1 only means that some calls failed.
            if process.returncode not in (0, 1) or errors:
                sys.exit("nsctl bench: %s" % errors.decode())

    def calls(self, number):
        """Returns, for each connection to this node, the end time and the outcome of each call."""
        calls = collections.defaultdict(list)
        with open(self.logs[number]) as log:
            for line in log:
                ended, connection, _, _, outcome = line.rstrip("\n").split(" ", 4)
                calls[connection].append((int(ended) / NANO, outcome))
        return list(calls.values())


def longest_gap(times, since, until):
    """Returns the longest time between two successes of which the second comes after `since`. The time from the
    last success to `until` counts as well."""
    before = [time for time in times if time <= since]
    after = [time for time in times if since < time <= until]
    points = [max(before, default=since)] + sorted(after) + [until]
    return max(second - first for first, second in zip(points, points[1:]))


def judge(calls, began, fault, until):
    """Computes the figures of one round from `calls`, the calls of each surviving client up to `until`."""
    successes = [[ended for ended, outcome in one if outcome == "ok"] for one in calls]
    errors = collections.Counter(outcome for one in calls for ended, outcome in one if outcome != "ok")
    together = [ended for one in successes for ended in one]
    calm = sum(began + 0.2 < ended <= fault for ended in together)
    return Round(
        gap=max(longest_gap(one, fault, until) for one in successes) * 1000,
        common_gap=longest_gap(together, fault, until) * 1000,
        errors=errors, rate=calm / (fault - began - 0.2))


def inflict(fault, node, net):
    if fault == "cut":
        net.cut(node.number)
    else:
        node.signal({"kill": signal.SIGKILL, "term": signal.SIGTERM, "pause": signal.SIGSTOP}[fault])


def repair(fault, node, net, cluster):
    if fault == "cut":
        net.heal(node.number)
    elif fault == "pause":
        node.signal(signal.SIGCONT)
    else:
        node.process.wait(30)
        if fault == "term" and node.process.returncode != 0:
            sys.exit("node %d ended with %s after SIGTERM:\n%s" % (node.number, node.process.returncode, node.last_words()))
        node.start()
    cluster.wait_ready()
    cluster.wait_caught_up()


def one_round(fault, cluster, net, folder):
    # Waits for a leader before the load begins; the leader is looked up again just before the fault.
    cluster.leader()
    began = time.time()
    seconds = BEFORE + AFTER[fault]
    writers = Writers(cluster, folder, seconds)
    time.sleep(BEFORE)
    leader = cluster.leader()
    moment = time.time()
    inflict(fault, leader, net)
    writers.wait()
    survivors = [node.number for node in cluster.nodes if node is not leader]
    calls = [one for number in survivors for one in writers.calls(number)]
    if len(calls) != len(survivors) * CLIENTS_A_NODE:
        sys.exit("only %d clients wrote anything" % len(calls))
    repair(fault, leader, net, cluster)
    # The load began a little after `began`, so it lasts longer than the time that is looked at.
    return judge(calls, began, moment, began + seconds - 0.3)


def measure(fault, options, folder):
    rounds = []
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network.Network()) if fault == "cut" else None
        arguments = ["--election-timeout", options.election_timeout] if options.election_timeout else []
        cluster = stack.enter_context(Hearth(folder, arguments=arguments, network=net))
        for number in range(options.rounds):
            one = one_round(fault, cluster, net, folder)
            rounds.append(one)
            if options.verbose:
                print("%s %d: a client waited %.0f ms, all of them %.0f ms; %d writes/s before; errors: %s" % (
                    fault, number + 1, one.gap, one.common_gap, one.rate, dict(one.errors) or 0), file=sys.stderr, flush=True)
    return rounds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--faults", default="kill,term," + ("cut" if network.is_possible() else "pause"))
    parser.add_argument("--dir", help="where to create the data directories of the nodes; must be on a real disk")
    parser.add_argument("--election-timeout", help="passed to hearthd, in milliseconds")
    parser.add_argument("-v", "--verbose", action="store_true", help="print one line per round on standard error")
    options = parser.parse_args()
    end_cleanly()
    faults = options.faults.split(",")
    if not set(faults) <= set(TITLES):
        parser.error("no such fault: %s" % ", ".join(set(faults) - set(TITLES)))
    want(HEARTHD, NSCTL)
    folder = tempfile.mkdtemp(prefix="hearth-failover-", dir=options.dir)
    try:
        print("%s; synced write of 4 KB on %s: %.2f ms; %d clients; election timeout: %s\n" % (
            machine(), file_system(folder), sync_time(folder), 3 * CLIENTS_A_NODE, options.election_timeout or "default"))
        print("| leader | rounds | longest gap of a client, ms: median | worst | of all clients: median | worst | errors | writes/s before |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for fault in faults:
            path = os.path.join(folder, fault)
            os.mkdir(path)
            rounds = measure(fault, options, path)
            errors = sum((one.errors for one in rounds), collections.Counter())
            print("| %s | %d | %.0f | %.0f | %.0f | %.0f | %s | %.0f |" % (
                TITLES[fault], len(rounds), statistics.median(one.gap for one in rounds), max(one.gap for one in rounds),
                statistics.median(one.common_gap for one in rounds), max(one.common_gap for one in rounds),
                ", ".join("%d x %s" % (count, kind) for kind, count in errors.items()) or "0",
                statistics.median(one.rate for one in rounds)), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
