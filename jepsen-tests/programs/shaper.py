"""A bad network between nodes that live in network namespaces: packets come late, never, twice or out of order.

usage: shaper.py ORDERS        (JSON; see below)

Each node that is named gets a device of its own (tun), and routes that lead what it sends to some of the others
through it. What comes out of one device is put into that of the receiver, as the orders say. When this
program ends, however it does, the devices and the routes are gone, and packets go as before; connections
last. It prints "shaping" when all is in place, and when SIGTERM ends it what became of the packets, as JSON.

    {"nodes": {"1": {"space": "NETNS", "address": "IPV4"}, ...},
     "links": [[FROM, TO], ...],      which packets it is about
     "delay_ms": [LEAST, MOST],       all of them, in their order
     "lost": SHARE, "twice": SHARE,   of all packets
     "later": SHARE,                  are held back for LATER_MS, and others overtake them
     "seed": NUMBER}
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000
DEVICE = "shaper"
LATER_MS = (2, 20)
PACKET_LEN_MAX = 65536


class Ended(Exception):
    """Somebody has asked for the end."""


def end(*_):
    raise Ended


def enter(space):
    """Makes the namespace of that name, or of that open file, this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if isinstance(space, str):
        file = os.open("/run/netns/" + space, os.O_RDONLY)
        try:
            return enter(file)
        finally:
            os.close(file)
    if libc.setns(space, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns")


def open_device(space, home):
    enter(space)
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        # Packets come in by another device than answers go out by, and that is meant.
        for name in ("all", "default", DEVICE):
            with open("/proc/sys/net/ipv4/conf/%s/rp_filter" % name, "w") as setting:
                setting.write("0")
    finally:
        enter(home)
    subprocess.run(["ip", "-n", space, "link", "set", DEVICE, "up"], check=True)
    return device


class Shaper:
    def __init__(self, orders):
        self.orders = orders
        self.random = random.Random(orders["seed"])
        self.counts = dict.fromkeys(("passed", "lost", "twice", "later"), 0)
        self.waiting = []
        self.last_due = {}
        self.number = 0
        nodes = orders["nodes"]
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.devices = {}
        # By the bytes of an address: the device that leads to it.
        self.receivers = {}
        for node in {node for link in orders["links"] for node in link}:
            device = open_device(nodes[str(node)]["space"], home)
            self.devices[device] = node
            address = bytes(int(part) for part in nodes[str(node)]["address"].split("."))
            self.receivers[address] = device
        for sender, receiver in orders["links"]:
            route = ["ip", "-n", nodes[str(sender)]["space"], "route", "replace"]
            route += [nodes[str(receiver)]["address"] + "/32", "dev", DEVICE]
            route += ["src", nodes[str(sender)]["address"]]
            subprocess.run(route, check=True)

    def send(self, receiver, packet):
        try:
            os.write(receiver, packet)
        except OSError:
            # No room, or not one that anybody takes: networks lose packets.
            self.counts["lost"] += 1

    def put(self, due, receiver, packet):
        self.number += 1
        heapq.heappush(self.waiting, (due, self.number, receiver, packet))

    def take(self, sender, packet):
        receiver = self.receivers.get(packet[16:20])
        if receiver is None:
            return
        orders, now = self.orders, time.monotonic()
        self.counts["passed"] += 1
        if self.random.random() < orders["lost"]:
            self.counts["lost"] += 1
            return
        least, most = orders["delay_ms"]
        due = now + self.random.uniform(least, most) / 1e3
        if self.random.random() < orders["later"]:
            self.counts["later"] += 1
            due += self.random.uniform(*LATER_MS) / 1e3
        else:
            # In the order in which they came.
            due = max(due, self.last_due.get((sender, receiver), 0))
            self.last_due[sender, receiver] = due
        copies = 1
        if self.random.random() < orders["twice"]:
            self.counts["twice"] += 1
            copies = 2
        for _ in range(copies):
            if due <= now:
                self.send(receiver, packet)
            else:
                self.put(due, receiver, packet)

    def run(self):
        poll = select.poll()
        for device in self.devices:
            poll.register(device, select.POLLIN)
        while True:
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, _, receiver, packet = heapq.heappop(self.waiting)
                self.send(receiver, packet)
            patience = None
            if self.waiting:
                patience = max(0, (self.waiting[0][0] - now) * 1e3)
            for file, _ in poll.poll(patience):
                for _ in range(64):
                    try:
                        packet = os.read(file, PACKET_LEN_MAX)
                    except BlockingIOError:
                        break
                    self.take(file, packet)


def main():
    shaper = Shaper(json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, end)
    print("shaping", flush=True)
    try:
        shaper.run()
    except Ended:
        pass
    print(json.dumps(shaper.counts), flush=True)


if __name__ == "__main__":
    main()
