"""A separate network for each node, which can be cut off: Linux network namespaces around a bridge.

A module of other scripts. Needs root, `ip` and `nft`.
"""

import os
import shutil
import subprocess

# Drops everything except the node's own loopback traffic, in both directions. Closes no socket.
CUT = """
table inet cut {
    chain in { type filter hook input priority 0; iifname != "lo" drop; }
    chain out { type filter hook output priority 0; oifname != "lo" drop; }
}
"""


def is_possible():
    return os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("nft") is not None


def run(*command, text=None):
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


class Network:
    """`count` namespaces with one address each, and one for the clients, which contains the bridge."""

    def __init__(self, count=3):
        self.name = "hearth%d" % os.getpid()
        self.hub = self.name + "hub"
        self.hosts = ["10.213.77.%d" % number for number in range(1, count + 1)]
        self.client_prefix = ["ip", "netns", "exec", self.hub]

    def __enter__(self):
        try:
            run("ip", "netns", "add", self.hub)
            hub = ["ip", "-n", self.hub]
            run(*hub, "link", "add", "bridge", "type", "bridge")
            run(*hub, "address", "add", "10.213.77.254/24", "dev", "bridge")
            for device in ("lo", "bridge"):
                run(*hub, "link", "set", device, "up")
            for number, host in enumerate(self.hosts, 1):
                place = self.place(number)
                run("ip", "netns", "add", place)
                run(*hub, "link", "add", "node%d" % number, "type", "veth", "peer", "name", "eth0", "netns", place)
                run(*hub, "link", "set", "node%d" % number, "master", "bridge", "up")
                run("ip", "-n", place, "address", "add", host + "/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    run("ip", "-n", place, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for place in [self.place(number) for number in range(1, len(self.hosts) + 1)] + [self.hub]:
            subprocess.run(["ip", "netns", "delete", place], capture_output=True)

    def place(self, number):
        return "%sn%d" % (self.name, number)

    def prefix(self, number):
        return ["ip", "netns", "exec", self.place(number)]

    def cut(self, number):
        run(*self.prefix(number), "nft", "-f", "-", text=CUT)

    def heal(self, number):
        run(*self.prefix(number), "nft", "delete", "table", "inet", "cut")
