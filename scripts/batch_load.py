#!/usr/bin/env python3
"""Registers names at a name server in batches of 1,000, and prints how many in a second.

usage: scripts/batch_load.py PORT SECONDS [--oneway] [--client]

Part of scripts/measure.py; needs Pyro4. A batch is sent as bytes that Pyro4 encoded before, so that the server is
measured and not the client; with --client each batch is made and sent by Pyro4's client, as a program would do it.
Oneway batches end with a call. hearthd answers it after all of them; pyro4-ns runs each in a thread of its own, so
some of them may not have ended then.
"""

import argparse
import time

import Pyro4
from Pyro4 import message, util

COUNT = 1000
URI = "PYRO:obj_%d@localhost:4000"


def with_client(server, oneway):
    batch = Pyro4.batch(server)
    for number in range(COUNT):
        batch.register("batch.%d" % number, URI % number)
    results = batch(oneway=oneway)
    if not oneway:
        for _ in results:
            pass


def encoded(server, oneway):
    """Returns a function that sends the batch once more and waits for its result."""
    serializer = util.get_serializer("serpent")
    calls = [("register", ("batch.%d" % number, URI % number), {}) for number in range(COUNT)]
    data, _ = serializer.serializeCall("Pyro.NameServer", "<batch>", calls, {}, compress=False)
    flags = message.FLAGS_BATCH | (message.FLAGS_ONEWAY if oneway else 0)
    connection = server._pyroConnection

    def send():
        server._pyroSeq = (server._pyroSeq + 1) & 0xffff
        call = message.Message(message.MSG_INVOKE, data, serializer.serializer_id, flags, server._pyroSeq)
        connection.send(call.to_bytes())
        if not oneway:
            result = message.Message.recv(connection, [message.MSG_RESULT])
            if result.flags & message.FLAGS_EXCEPTION:
                raise RuntimeError("the batch has failed")

    return send


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--oneway", action="store_true")
    parser.add_argument("--client", action="store_true")
    options = parser.parse_args()
    Pyro4.config.SERIALIZER = "serpent"
    with Pyro4.Proxy("PYRO:Pyro.NameServer@127.0.0.1:%d" % options.port) as server:
        server.ping()
        if options.client:
            def send():
                with_client(server, options.oneway)
        else:
            send = encoded(server, options.oneway)
        count, began = 0, time.monotonic()
        while time.monotonic() - began < options.seconds:
            send()
            count += COUNT
        registered = server.count()
        elapsed = time.monotonic() - began
        if registered != COUNT + 1:
            raise RuntimeError("%d names are registered" % registered)
    print(count / elapsed)


if __name__ == "__main__":
    main()
