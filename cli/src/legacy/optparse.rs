//! The command line of `pyro4-nsc`, by the rules of Python's `optparse`: options may appear
//! anywhere before `--`, long options may be shortened, short options may be joined.

use hearth_cli::python_int;
use hearth_wire::repr::str_repr;

use super::{Options, Stop};

const USAGE: &str = "\
Usage: pyro4-nsc [options] command [arguments]
Commands: register remove removematching lookup list listmatching
          listmeta_all listmeta_any setmeta ping
";

const HELP: &str = "\
Usage: pyro4-nsc [options] command [arguments]
Commands: register remove removematching lookup list listmatching
          listmeta_all listmeta_any setmeta ping

Options:
  -h, --help            show this help message and exit
  -n HOST, --host=HOST  hostname of the NS
  -p PORT, --port=PORT  port of the NS (or bc-port if host isn't specified)
  -u UNIXSOCKET, --unixsocket=UNIXSOCKET
                        Unix domain socket name of the NS
  -k KEY, --key=KEY     the HMAC key to use (deprecated)
  -v, --verbose         verbose output
";

const COMMANDS: [&str; 10] = [
    "register",
    "remove",
    "removematching",
    "list",
    "listmatching",
    "lookup",
    "listmeta_all",
    "listmeta_any",
    "setmeta",
    "ping",
];

/// Short and long form of each option. The code below identifies options by their letters.
const OPTIONS: [(char, &str); 6] = [
    ('h', "--help"),
    ('n', "--host"),
    ('p', "--port"),
    ('u', "--unixsocket"),
    ('k', "--key"),
    ('v', "--verbose"),
];

/// Parses the options. The command and its arguments are not checked.
pub(super) fn parse(arguments: &[String]) -> Result<Options, Stop> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut next = || rest.next().cloned();
        if argument == "--" {
            options.words.extend(rest.cloned());
            break;
        } else if argument.starts_with("--") {
            long(&mut options, argument, &mut next)?;
        } else if let Some(letters) = argument.strip_prefix('-').filter(|text| !text.is_empty()) {
            short(&mut options, letters, &mut next)?;
        } else {
            options.words.push(argument.clone());
        }
    }
    Ok(options)
}

/// Refuses a missing or unknown command.
pub(super) fn check_command(words: &[String]) -> Result<(), Stop> {
    match words.first() {
        Some(command) if COMMANDS.contains(&command.as_str()) => Ok(()),
        _ => Err(usage("invalid or missing command")),
    }
}

fn long(
    options: &mut Options,
    argument: &str,
    next: &mut dyn FnMut() -> Option<String>,
) -> Result<(), Stop> {
    let (typed, mut value) = match argument.split_once('=') {
        Some((typed, value)) => (typed, Some(value.to_owned())),
        None => (argument, None),
    };
    let (letter, name) = find_long(typed)?;
    if takes_value(letter) {
        value = value.or_else(next);
        if value.is_none() {
            return Err(usage(&format!("{name} option requires 1 argument")));
        }
    } else if value.is_some() {
        return Err(usage(&format!("{name} option does not take a value")));
    }
    set(options, letter, name, value.unwrap_or_default())
}

/// Returns the option whose name is `typed` or unambiguously begins with it.
fn find_long(typed: &str) -> Result<(char, &'static str), Stop> {
    let mut matches: Vec<(char, &str)> = OPTIONS
        .into_iter()
        .filter(|(_, name)| name.starts_with(typed))
        .collect();
    if let Some(exact) = matches.iter().find(|(_, name)| *name == typed) {
        return Ok(*exact);
    }
    match matches.as_slice() {
        [only] => Ok(*only),
        [] => Err(usage(&format!("no such option: {typed}"))),
        _ => {
            matches.sort_by_key(|(_, name)| *name);
            let names: Vec<&str> = matches.iter().map(|(_, name)| *name).collect();
            let names = names.join(", ");
            Err(usage(&format!("ambiguous option: {typed} ({names}?)")))
        }
    }
}

fn short(
    options: &mut Options,
    letters: &str,
    next: &mut dyn FnMut() -> Option<String>,
) -> Result<(), Stop> {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let name = format!("-{letter}");
        if !OPTIONS.iter().any(|(known, _)| *known == letter) {
            return Err(usage(&format!("no such option: {name}")));
        }
        if !takes_value(letter) {
            set(options, letter, &name, String::new())?;
            continue;
        }
        let value = match rest.as_str() {
            "" => next(),
            attached => Some(attached.to_owned()),
        };
        let value = value.ok_or_else(|| usage(&format!("{name} option requires 1 argument")))?;
        return set(options, letter, &name, value);
    }
    Ok(())
}

fn takes_value(letter: char) -> bool {
    !matches!(letter, 'h' | 'v')
}

fn set(options: &mut Options, letter: char, name: &str, value: String) -> Result<(), Stop> {
    match letter {
        'n' => options.host = Some(value),
        'p' => {
            let port = number(&value).ok_or_else(|| {
                let value = str_repr(&value);
                usage(&format!("option {name}: invalid integer value: {value}"))
            })?;
            options.port = Some(port);
        }
        'u' => options.unixsocket = Some(value),
        'k' => options.key = Some(value),
        'v' => options.verbose = true,
        _ => return Err(Stop::Help(HELP)),
    }
    Ok(())
}

/// Parses a number as `optparse` does: decimal, hexadecimal, binary or octal.
fn number(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0x") {
        i64::from_str_radix(digits, 16).ok()
    } else if let Some(digits) = lower.strip_prefix("0b") {
        i64::from_str_radix(if digits.is_empty() { "0" } else { digits }, 2).ok()
    } else if lower.starts_with('0') {
        i64::from_str_radix(&lower, 8).ok()
    } else {
        python_int(text)
    }
}

fn usage(reason: &str) -> Stop {
    Stop::Usage(format!("{USAGE}\npyro4-nsc: error: {reason}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, Stop> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        parse(&arguments)
    }

    fn reason(arguments: &[&str]) -> String {
        match parsed(arguments) {
            Err(Stop::Usage(text)) => text
                .rsplit_once("error: ")
                .map(|(_, reason)| reason.trim_end().to_owned())
                .expect("a reason"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_stand_anywhere_and_may_be_shortened_and_joined() {
        let options = parsed(&["lookup", "-vnhost", "x", "--por=0x10", "--", "-n"]);
        let options = options.expect("valid options");
        assert_eq!(options.host.as_deref(), Some("host"));
        assert_eq!(options.port, Some(16));
        assert!(options.verbose);
        assert_eq!(options.words, ["lookup", "x", "-n"]);
    }

    #[test]
    fn mistakes_read_as_in_optparse() {
        assert_eq!(reason(&["-z"]), "no such option: -z");
        assert_eq!(reason(&["--zz=1"]), "no such option: --zz");
        assert_eq!(reason(&["--h"]), "ambiguous option: --h (--help, --host?)");
        assert_eq!(reason(&["-n"]), "-n option requires 1 argument");
        assert_eq!(reason(&["--ho"]), "--host option requires 1 argument");
        assert_eq!(
            reason(&["--verb=1"]),
            "--verbose option does not take a value"
        );
        assert_eq!(
            reason(&["-p", "abc"]),
            "option -p: invalid integer value: 'abc'"
        );
        assert_eq!(
            reason(&["--port=09"]),
            "option --port: invalid integer value: '09'"
        );
    }
}
