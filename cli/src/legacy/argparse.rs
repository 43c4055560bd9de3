//! The command line of `pyro5-nsc`, by the rules of Python's `argparse` and its `parse_known_args`:
//! an argument that is not an option of this tool becomes an argument of the command.

use hearth_cli::python_int;
use hearth_wire::repr::str_repr;

use super::{Options, Stop};

const USAGE: &str = "\
usage: pyro5-nsc [-h] [-n HOST] [-p PORT] [-u UNIXSOCKET] [-v]
                 {list,lookup,register,remove,removematching,listmatching,yplookup_all,yplookup_any,setmeta,ping}
";

const HELP: &str = "\
usage: pyro5-nsc [-h] [-n HOST] [-p PORT] [-u UNIXSOCKET] [-v]
                 {list,lookup,register,remove,removematching,listmatching,yplookup_all,yplookup_any,setmeta,ping}

Pyro name server control utility.

positional arguments:
  {list,lookup,register,remove,removematching,listmatching,yplookup_all,yplookup_any,setmeta,ping}

options:
  -h, --help            show this help message and exit
  -n HOST, --host HOST  hostname of the NS
  -p PORT, --port PORT  port of the NS (or bc-port if host isn't specified)
  -u UNIXSOCKET, --unixsocket UNIXSOCKET
                        Unix domain socket name of the NS
  -v, --verbose         verbose output
";

const COMMANDS: [&str; 10] = [
    "list",
    "lookup",
    "register",
    "remove",
    "removematching",
    "listmatching",
    "yplookup_all",
    "yplookup_any",
    "setmeta",
    "ping",
];

/// One option in its short and long form.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    short: &'static str,
    long: &'static str,
    takes_value: bool,
}

const KNOWN: [Known; 5] = [
    known("-h", "--help", false),
    known("-n", "--host", true),
    known("-p", "--port", true),
    known("-u", "--unixsocket", true),
    known("-v", "--verbose", false),
];

const fn known(short: &'static str, long: &'static str, takes_value: bool) -> Known {
    Known {
        short,
        long,
        takes_value,
    }
}

/// The kind of an argument by its form alone, before it is assigned to an option or the command.
#[derive(Debug)]
enum Kind {
    /// A plain argument, or any argument after `--`.
    Word,
    /// The `--` itself.
    Dashes,
    /// An argument with a hyphen that is not an option of this tool.
    Unknown,
    /// An option of this tool, with the text attached to it.
    Option {
        known: &'static Known,
        is_long: bool,
        attached: Option<String>,
    },
}

/// Parses options, command and arguments.
pub(super) fn parse(arguments: &[String]) -> Result<Options, Stop> {
    let mut kinds = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let is_after_dashes = kinds.iter().any(|kind| matches!(kind, Kind::Dashes));
        kinds.push(match argument.as_str() {
            _ if is_after_dashes => Kind::Word,
            "--" => Kind::Dashes,
            text => kind_of(text)?,
        });
    }
    let mut parser = Parser {
        arguments,
        kinds,
        options: Options::default(),
        command: None,
        extras: Vec::new(),
    };
    parser.run()?;
    let Some(command) = parser.command else {
        return Err(usage("the following arguments are required: command"));
    };
    parser.options.words.push(command);
    parser.options.words.append(&mut parser.extras);
    Ok(parser.options)
}

struct Parser<'a> {
    arguments: &'a [String],
    kinds: Vec<Kind>,
    options: Options,
    command: Option<String>,
    extras: Vec<String>,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let mut index = 0;
        while let Some(option_index) = self.next_option(index) {
            if index != option_index {
                let after_command = self.take_command(index)?;
                if after_command > index {
                    index = after_command;
                    continue;
                }
                self.take_extras(index, option_index);
            }
            index = self.take_option(option_index)?;
        }
        let after_command = self.take_command(index)?;
        self.take_extras(after_command, self.arguments.len());
        Ok(())
    }

    fn next_option(&self, index: usize) -> Option<usize> {
        (index..self.kinds.len()).find(|index| {
            matches!(
                self.kinds.get(*index),
                Some(Kind::Unknown | Kind::Option { .. })
            )
        })
    }

    fn take_extras(&mut self, start: usize, end: usize) {
        let extras = self.arguments.get(start..end).unwrap_or_default();
        self.extras.extend_from_slice(extras);
    }

    /// Takes the first plain argument as the command; an adjacent `--` goes with it. Returns the
    /// index after it.
    fn take_command(&mut self, start: usize) -> Result<usize, Stop> {
        if self.command.is_some() {
            return Ok(start);
        }
        let is_dashes = |index| matches!(self.kinds.get(index), Some(Kind::Dashes));
        let index = if is_dashes(start) { start + 1 } else { start };
        if !matches!(self.kinds.get(index), Some(Kind::Word)) {
            return Ok(start);
        }
        let end = if is_dashes(index + 1) {
            index + 2
        } else {
            index + 1
        };
        let command = self.arguments.get(index).cloned().unwrap_or_default();
        if !COMMANDS.contains(&command.as_str()) {
            let choices: Vec<String> = COMMANDS.into_iter().map(str_repr).collect();
            return Err(usage(&format!(
                "argument command: invalid choice: {} (choose from {})",
                str_repr(&command),
                choices.join(", ")
            )));
        }
        self.command = Some(command);
        Ok(end)
    }

    /// Applies the option at `index` and returns the index after the option and its value.
    fn take_option(&mut self, index: usize) -> Result<usize, Stop> {
        let (mut known, is_long, mut attached) = match self.kinds.get(index) {
            Some(Kind::Option {
                known,
                is_long,
                attached,
            }) => (*known, *is_long, attached.clone()),
            _ => {
                self.take_extras(index, index + 1);
                return Ok(index + 1);
            }
        };
        // Joined short options are applied only after all of them have been parsed.
        let mut flags = Vec::new();
        loop {
            match attached {
                None if known.takes_value => {
                    let value = match self.kinds.get(index + 1) {
                        Some(Kind::Word) => self.arguments.get(index + 1).cloned(),
                        _ => None,
                    };
                    let value = value.ok_or_else(|| mistake(known, "expected one argument"))?;
                    self.set_all(&flags)?;
                    self.set(known, value)?;
                    return Ok(index + 2);
                }
                Some(value) if known.takes_value => {
                    self.set_all(&flags)?;
                    self.set(known, value)?;
                    return Ok(index + 1);
                }
                None => {
                    flags.push(known);
                    self.set_all(&flags)?;
                    return Ok(index + 1);
                }
                Some(letters) => {
                    flags.push(known);
                    let refused = || {
                        let letters = str_repr(&letters);
                        mistake(known, &format!("ignored explicit argument {letters}"))
                    };
                    let mut rest = letters.chars();
                    let letter = rest.next().filter(|_| !is_long).ok_or_else(refused)?;
                    let short = format!("-{letter}");
                    known = KNOWN
                        .iter()
                        .find(|known| known.short == short)
                        .ok_or_else(refused)?;
                    attached = Some(rest.as_str().to_owned()).filter(|rest| !rest.is_empty());
                }
            }
        }
    }

    fn set_all(&mut self, flags: &[&'static Known]) -> Result<(), Stop> {
        flags
            .iter()
            .try_for_each(|known| self.set(known, String::new()))
    }

    fn set(&mut self, known: &Known, value: String) -> Result<(), Stop> {
        match known.short {
            // An empty host means none, because that is the option's default.
            "-n" => self.options.host = Some(value).filter(|host| !host.is_empty()),
            "-p" => {
                let port = python_int(&value).ok_or_else(|| {
                    let value = str_repr(&value);
                    mistake(known, &format!("invalid int value: {value}"))
                })?;
                self.options.port = Some(port);
            }
            "-u" => self.options.unixsocket = Some(value),
            "-v" => self.options.verbose = true,
            _ => return Err(Stop::Help(HELP)),
        }
        Ok(())
    }
}

fn kind_of(text: &str) -> Result<Kind, Stop> {
    if !text.starts_with('-') || text.len() == 1 {
        return Ok(Kind::Word);
    }
    let (name, attached) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let exact = |name: &str| {
        KNOWN
            .iter()
            .find(|known| known.short == name || known.long == name)
    };
    let option = |known, is_long, attached| {
        Ok(Kind::Option {
            known,
            is_long,
            attached,
        })
    };
    if let Some(known) = exact(text) {
        return option(known, text == known.long, None);
    }
    if let Some(known) = exact(name) {
        return option(known, name == known.long, attached);
    }
    if name.starts_with("--") {
        let matches: Vec<&Known> = KNOWN
            .iter()
            .filter(|known| known.long.starts_with(name))
            .collect();
        match matches.as_slice() {
            [] => {}
            [only] => return option(only, true, attached),
            several => {
                let names: Vec<&str> = several.iter().map(|known| known.long).collect();
                let names = names.join(", ");
                return Err(usage(&format!(
                    "ambiguous option: {text} could match {names}"
                )));
            }
        }
    } else {
        let letter_len = text.chars().nth(1).map_or(0, char::len_utf8);
        let (short, letters) = text.split_at(1 + letter_len);
        if let Some(known) = KNOWN.iter().find(|known| known.short == short) {
            return option(known, false, Some(letters.to_owned()));
        }
    }
    Ok(if is_negative_number(text) || text.contains(' ') {
        Kind::Word
    } else {
        Kind::Unknown
    })
}

/// Returns true for the texts that match `^-\d+$|^-\d*\.\d+$`.
fn is_negative_number(text: &str) -> bool {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or_default();
    match number.split_once('.') {
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction) && !fraction.is_empty(),
        None => is_digits(number) && !number.is_empty(),
    }
}

fn mistake(known: &Known, reason: &str) -> Stop {
    usage(&format!(
        "argument {}/{}: {reason}",
        known.short, known.long
    ))
}

fn usage(reason: &str) -> Stop {
    Stop::Usage(format!("{USAGE}pyro5-nsc: error: {reason}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, Stop> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        parse(&arguments)
    }

    fn words(arguments: &[&str]) -> Vec<String> {
        parsed(arguments).expect("valid options").words
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
    fn unknown_options_become_words_of_the_command() {
        assert_eq!(words(&["-x", "lookup", "a"]), ["lookup", "-x", "a"]);
        assert_eq!(
            words(&["setmeta", "a", "--zz", "-5"]),
            ["setmeta", "a", "--zz", "-5"]
        );
        assert_eq!(words(&["lookup", "--", "-n"]), ["lookup", "-n"]);
        assert_eq!(words(&["--", "lookup", "-n"]), ["lookup", "-n"]);
        assert_eq!(
            words(&["lookup", "a", "--", "b"]),
            ["lookup", "a", "--", "b"]
        );
    }

    #[test]
    fn options_stand_anywhere_and_may_be_shortened_and_joined() {
        let options = parsed(&["lookup", "-vnhost", "x", "--por", " 1_0"]).expect("valid options");
        assert_eq!(options.host.as_deref(), Some("host"));
        assert_eq!(options.port, Some(10));
        assert!(options.verbose);
        assert_eq!(options.words, ["lookup", "x"]);
    }

    #[test]
    fn mistakes_read_as_in_argparse() {
        assert_eq!(reason(&[]), "the following arguments are required: command");
        assert_eq!(reason(&["-n"]), "argument -n/--host: expected one argument");
        assert_eq!(
            reason(&["-n", "-v"]),
            "argument -n/--host: expected one argument"
        );
        assert_eq!(
            reason(&["-p", "x"]),
            "argument -p/--port: invalid int value: 'x'"
        );
        assert_eq!(
            reason(&["--h"]),
            "ambiguous option: --h could match --help, --host"
        );
        assert_eq!(
            reason(&["--verbose=1"]),
            "argument -v/--verbose: ignored explicit argument '1'"
        );
        assert_eq!(
            reason(&["-verbose"]),
            "argument -v/--verbose: ignored explicit argument 'erbose'"
        );
        assert!(
            reason(&["bogus"]).starts_with("argument command: invalid choice: 'bogus' (choose")
        );
    }
}
