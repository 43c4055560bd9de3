"""A program that uses a name server through the real Pyro4 or Pyro5, told what to do line by line.

usage: pyro_client.py Pyro4|Pyro5 SECONDS

Each line of standard input is a JSON object, each line of standard output the answer to it:

    {"do": "locate"}                                as Pyro itself looks for one; the answer is its URI
    {"do": "locate", "host": h, "port": p}          the one at this place
    {"do": "register", "name": n, "uri": u, "tags": [..], "safe": false}
    {"do": "set_metadata", "name": n, "tags": [..]}
    {"do": "lookup", "name": n}                     the answer is [uri, [tags]]
    {"do": "remove", "name": n}                     the answer is a number
    {"do": "list", "prefix": p}                     the answer is {name: [uri, [tags]]}

    {"ok": value}        it was answered
    {"raised": text}     the name server raised this
    {"unsent": text}     it was not sent: there is no connection
    {"lost": text}       it was sent, and no answer came; there is no connection any more

SECONDS is how long Pyro waits for an answer. Whatever else is raised ends this program: it must not happen.
"""

import json
import select
import sys

FAMILY, PATIENCE = sys.argv[1], float(sys.argv[2])

if FAMILY == "Pyro4":
    import Pyro4
    import Pyro4.errors as errors
    from Pyro4 import config, locateNS as locate_ns
else:
    import Pyro5.errors as errors
    from Pyro5 import config
    from Pyro5.api import locate_ns

config.COMMTIMEOUT = PATIENCE
# Nothing is ever sent twice, also not by Pyro.
config.MAX_RETRIES = 0

proxy = None


def leave():
    global proxy
    if proxy is not None:
        proxy._pyroRelease()
        proxy = None


def locate(host=None, port=None):
    global proxy
    leave()
    try:
        proxy = locate_ns() if host is None else locate_ns(host, port, broadcast=False)
        proxy._pyroBind()
    except (errors.PyroError, OSError) as error:
        leave()
        return {"unsent": words(error)}
    return {"ok": str(proxy._pyroUri)}


def has_ended():
    """Whether the other side has closed the connection while it was idle."""
    connection = proxy._pyroConnection
    return connection is None or bool(select.select([connection.sock], [], [], 0)[0])


def call(do, **arguments):
    if proxy is None or has_ended():
        leave()
        return {"unsent": "there is no connection"}
    try:
        return {"ok": CALLS[do](**arguments)}
    except errors.NamingError as error:
        return {"raised": str(error)}
    except (errors.CommunicationError, OSError) as error:
        leave()
        return {"lost": words(error)}


def words(error):
    return "%s: %s" % (type(error).__name__, error)


def entry(found):
    uri, tags = found
    return [str(uri), sorted(tags or [])]


CALLS = {
    "register": lambda name, uri, tags, safe: proxy.register(name, uri, safe=safe, metadata=tags),
    "set_metadata": lambda name, tags: proxy.set_metadata(name, tags),
    "lookup": lambda name: entry(proxy.lookup(name, return_metadata=True)),
    "remove": lambda name: proxy.remove(name),
    "list": lambda prefix: {
        name: entry(found) for name, found in proxy.list(prefix=prefix, return_metadata=True).items()
    },
}

for line in sys.stdin:
    asked = json.loads(line)
    answer = locate(**{k: v for k, v in asked.items() if k != "do"}) if asked["do"] == "locate" else call(**asked)
    print(json.dumps(answer), flush=True)
