"""Asks CPython what it makes of patterns, and prints one JSON line each.

usage: python3 generate.py [RANDOM_COUNT [SEED]] > cpython-3.11.jsonl

A line is {"pattern": P, "error": TEXT} for a pattern that Python refuses, or
{"pattern": P, "matches": "0110…"}, one digit for each text of the first line's "texts".
"""

import json
import random
import re
import sys
import warnings

warnings.simplefilter("ignore")

TEXTS = [
    "", "a", "b", "ab", "aab", "abab", "aaaaaaaa", "abc.def", "svc.alpha", "a\n", "a\nb", "\n", "A", "aB",
    "1", "a1", "_", "a_b", " ", "a b", "-", "a-b", "é", "É", "²", "e\u0301", "İ", "i", "ı", "s", "ſ", "ß", "ẞ",
    "Ω", "ω", "K", "k", "\u2028", "\x1c", "[", "]", "a]", "{", "a{", "a{,2}", "\\", "/", "日本", "𝔸", "٣", "xyzzy", "&&",
    "b" * 12, "ba", "c", "ca", "cb", "(", ")", "|", "$", "^", "a$", "Pyro.NameServer",
]

BY_HAND = r"""
(?=a)|(?!a)|(?<=a)b|a(?<=a)b|(?<!a)b|(a)\1|(?P<n>a)(?P=n)|(a)?(?(1)b|c)|(?P<n>a)?(?(n)b|c)|(?>a+)|(?>a+)a|a++|a++a|a*+b|a{1,2}+|a{1,2}+b
(?<n>a)|\Z|a\Z|a$|$|(?m)a$|(?m)^b|(?i)a|(?s).|(?x) a # c|(?u)\w|(?i:a)b|(?-i:a)|a(?i)b|(?a)\w|(?L)a|(?#x)a|a{|a{x}|{|a{2|a{,2}|a**|a+*|a{1}{2}|a??|a+?b
[[a]|[[:alpha:]]|[a&&b]|[a~~b]|[]a]|[a-]|[\b]|\101|\0|\08|\x41|\u0041|\U00000041|\N{DIGIT ONE}|\N{LATIN SMALL LETTER A}|\p{L}|\h|\R|\K|\G|\e|\z|\Q|\X|\cA
(?R)|(?1)|(?&n)|(?P>n)|(?|a)|\w|\w+|\W|\s|\S|\d|\D|[\w]|[^\w]|[\W]|[^\W]|[\s\d]|[^\s\D]|(?i)İ|(?i)i|(?i)[a-z]|(?i)ı|(?i)s|(?i)ß|(?i)K|(?i)ω|(?i)[^a]|(?ai)k|(?ai)[a-z]+
[|[a|[^|[]|(|(a|(?:|(?=a|(?P<n>|a)|*|(?i)*|^*|\b*|a{3,2}|[b-a]|[\d-a]|[a-\d]|\|\x4|\u12|\U0001|\777|[\777]|\U00110000|\N|\N{|\N{foo}|\N{}|\1|(?(1)a)|(a\1)|(?P=n)|(?(x)a)
(?|(?P|(?<|(?'n'a)|(?Px)|(?z)|(?P<|(?P<>a)|(?P<n|(?P<1a>a)|(?P<a>x)(?P<a>y)|(a)(?(1)a|(?i|(?-|(?i-i:a)|(?-i)|(?i-|(?i-s|(?iz)|(?i3)|(?-3:a)|(?-z:a)|(?i-s3:a)|(?#|(?<=a*)b|(?<=a|bc)d|(?<=ab|cd)e
(?a)(?u)x|(?au)x|(?a:\w)|(?u:\w)|(?-a:x)|(?t)a|(?t:a)|(?(0)a)|(?(-1)a)|(?( 1 )a)(b)|(?(1_0)a)|(?(99999999999)a)|(?()a)|(?<=(a)\1)b|(a)(?<=\1)b|(?<=(?P<x>a)(?P=x))b
\b|\B|\ba\b|a\b|a\B|\Ba|(?a)\bé|(?a)\w+|x*|(a*)*|(a*)+|(a|b)*?c|(?:a|ab)(?:c|b)|^a|\Aa|a|b|a||b|()|(?:)|(?:a|)|(((a)))|(?:(?:(?:a)))b
svc|svc$|svc\.alpha|alpha|svc\.[a-z]+$|.*\.alpha$|(?s).*b|(?i)SVC\..*|[A-Z]|a{4294967295}|a{,4294967295}|a{4294967294}|a{2,1}|(?x)a b|(?x)[ ]|(?x)a\ b|(?x: a )b
\8|[\8]|[\x4]|[\q]|\_|\-|\é|[\é]|(?P<é>a)(?P=é)|(?P<a b>x)|(?P=1)|(?\x)|(?P\x)|(?<\x)|[a-\x]|[\x62-\x61]|(a)\10|\141|\1411|(?i)(a)\1|(ab)?(?(1)|c)d
""".strip("\n")

ATOMS = [
    "a", "b", "ab", "c", ".", "^", "$", r"\b", r"\B", r"\w", r"\W", r"\d", r"\s", r"\S", "[ab]", "[^a]", "[a-c]", r"[\w-]", "é",
    r"\.", r"\n", "_", "1", r"\A", r"\Z", r"\1", r"\2", "(?P=n)", "[^\\W_]", "[]a]", "i", "K", r"\x61", r"\u00e9", "-", " ", "#", r"[\s\S]",
]
BITS = ["(", ")", "[", "]", "{", "}", "?", "*", "+", "|", "\\", "(?", "(?:", "(?=", "(?P<n>", "a", "b", "1", ",", "-", "^", "$", "(?i)",
        "(?-i:", "(?<!", "(?(1)", "\n", ">", "<", "=", ":", "x", "u0", "N{", "é"]


def random_pattern(rng, depth=0):
    """A pattern that is likely to be valid."""
    parts = []
    for _ in range(rng.randint(1, 4)):
        roll = rng.random()
        if depth < 3 and roll < 0.35:
            inner = random_pattern(rng, depth + 1)
            opening = rng.choice(["(", "(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?s:", "(?-i:", "(?a:", "(?m:", "(?(1)", "(?P<n>"])
            part = opening + inner + ")"
        else:
            part = rng.choice(ATOMS)
        if rng.random() < 0.3:
            part += rng.choice(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}"]) + rng.choice(["", "", "", "?", "+"])
        parts.append(part)
    text = "".join(parts)
    if rng.random() < 0.2:
        text += "|" + rng.choice(ATOMS)
    if depth == 0 and rng.random() < 0.2:
        text = rng.choice(["(?i)", "(?s)", "(?m)", "(?x)", "(?a)", "(?is)", "(?ai)"]) + text
    return text


def broken_pattern(rng):
    """A pattern that is likely to be invalid."""
    return "".join(rng.choice(BITS) for _ in range(rng.randint(1, 7)))


def answer(pattern):
    try:
        compiled = re.compile(pattern)
    except re.error as x:
        return {"pattern": pattern, "error": str(x)}
    except (OverflowError, RecursionError, ValueError) as x:
        return {"pattern": pattern, "error": type(x).__name__ + ": " + str(x)}
    return {"pattern": pattern, "matches": "".join("01"[bool(compiled.match(text))] for text in TEXTS)}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(json.dumps({"python": sys.version.split()[0], "texts": TEXTS}))
    patterns = [pattern for line in BY_HAND.split("\n") for pattern in split_by_hand(line)]
    patterns += ["a\nb)", "(?x)a\n#c\nb[", "\\", "(a)(?(1)a|b|c)", "(?i)a|b", "a|(?i)b", "(?i-s:a|b)c", "(" * 400 + "a" + ")" * 400]
    for index in range(count):
        patterns.append(random_pattern(rng) if index % 2 else broken_pattern(rng))
    for pattern in dict.fromkeys(patterns):
        print(json.dumps(answer(pattern)))


def split_by_hand(line):
    """Splits at every bar; patterns that hold one are thereby tried in parts, and whole."""
    return [line] + line.split("|")


main()
