//! Binding a call's arguments to a method's parameters, with the errors of CPython 3.11.
//!
//! The original's methods are Python functions, so wrong arguments fail before the method runs, in the
//! order in which CPython looks: keywords that are no mapping, positional arguments that cannot be
//! iterated, keywords that are no text, each keyword in turn, too many, too few.

use hearth_wire::{Exception, Value};

use super::python;

/// The most parameters that any method has, `self` aside.
const PARAMETER_COUNT_MAX: usize = 5;

/// The parameters of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    /// The method's name.
    pub method: &'static str,
    /// Its parameters in order, `self` aside; at most [`PARAMETER_COUNT_MAX`].
    pub parameters: &'static [&'static str],
    /// How many of them, from the left, have no default; at most `parameters.len()`.
    pub required_count: usize,
}

/// The class that a method belongs to, as two kinds of errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    /// `__qualname__`, such as `NameServer`.
    pub name: &'static str,
    /// With its module, such as `Pyro4.naming.NameServer`.
    pub full_name: &'static str,
}

/// Arguments by the position of their parameter; `None` where the default holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Arguments([Option<Value>; PARAMETER_COUNT_MAX]);

impl Arguments {
    /// The argument of a required parameter. Binding has seen to it that it is there.
    pub(super) fn required(&mut self, index: usize) -> Value {
        self.optional(index).unwrap_or(Value::None)
    }

    /// The argument, if one was given.
    pub(super) fn optional(&mut self, index: usize) -> Option<Value> {
        self.0.get_mut(index).and_then(Option::take)
    }

    /// The argument, where not giving one is the same as giving `None`.
    pub(super) fn or_none(&mut self, index: usize) -> Value {
        self.optional(index).unwrap_or(Value::None)
    }

    /// Python's truth of the argument, or `default`.
    pub(super) fn flag(&mut self, index: usize, default: bool) -> bool {
        self.optional(index)
            .map_or(default, |value| value.is_truthy())
    }
}

impl Signature {
    /// Binds what a client sent.
    ///
    /// # Errors
    /// The `TypeError` that CPython raises for `method(*args, **kwargs)`.
    pub(super) fn bind(
        &self,
        class: Class,
        args: Value,
        kwargs: Value,
    ) -> Result<Arguments, Exception> {
        let Value::Dict(keywords) = kwargs else {
            return Err(self.not_callable_with(class, "** must be a mapping", &kwargs));
        };
        let positional = python::iterate(args)
            .map_err(|args| self.not_callable_with(class, "* must be an iterable", &args))?;
        if !keywords.iter().all(|(key, _)| is_text(key)) {
            return Err(Exception::type_error("keywords must be strings"));
        }
        let given_count = positional.len();
        let mut arguments = Arguments::default();
        for (slot, value) in arguments.0.iter_mut().zip(positional) {
            *slot = Some(value);
        }
        for (key, value) in keywords {
            self.bind_keyword(class, &mut arguments, &key, value)?;
        }
        if given_count > self.parameters.len() {
            return Err(self.too_many(class, given_count));
        }
        self.check_required(class, &arguments)?;
        Ok(arguments)
    }

    fn bind_keyword(
        &self,
        class: Class,
        arguments: &mut Arguments,
        key: &Value,
        value: Value,
    ) -> Result<(), Exception> {
        let name = key.as_str().unwrap_or("\u{FFFD}");
        let position = self.parameters.iter().position(|found| *found == name);
        match position.and_then(|index| arguments.0.get_mut(index)) {
            Some(slot @ None) => {
                *slot = Some(value);
                Ok(())
            }
            None if name != "self" => Err(self.error(
                class,
                &format!("got an unexpected keyword argument '{name}'"),
            )),
            _ => Err(self.error(class, &format!("got multiple values for argument '{name}'"))),
        }
    }

    fn too_many(&self, class: Class, given_count: usize) -> Exception {
        // CPython counts `self` on both sides.
        let given = given_count + 1;
        let max = self.parameters.len() + 1;
        let takes = if self.required_count < self.parameters.len() {
            format!(
                "from {} to {max} positional arguments",
                self.required_count + 1
            )
        } else if max == 1 {
            "1 positional argument".to_owned()
        } else {
            format!("{max} positional arguments")
        };
        self.error(class, &format!("takes {takes} but {given} were given"))
    }

    fn check_required(&self, class: Class, arguments: &Arguments) -> Result<(), Exception> {
        let missing: Vec<&str> = self
            .parameters
            .iter()
            .zip(&arguments.0)
            .take(self.required_count)
            .filter(|(_, argument)| argument.is_none())
            .map(|(name, _)| *name)
            .collect();
        let text = match missing.as_slice() {
            [] => return Ok(()),
            [name] => format!("missing 1 required positional argument: '{name}'"),
            [first, second] => {
                format!("missing 2 required positional arguments: '{first}' and '{second}'")
            }
            [start @ .., last] => format!(
                "missing {} required positional arguments: '{}', and '{last}'",
                missing.len(),
                start.join("', '"),
            ),
        };
        Err(self.error(class, &text))
    }

    fn error(&self, class: Class, text: &str) -> Exception {
        Exception::type_error(format!("{}.{}() {text}", class.name, self.method))
    }

    fn not_callable_with(&self, class: Class, rule: &str, found: &Value) -> Exception {
        Exception::type_error(format!(
            "{}.{}() argument after {rule}, not {}",
            class.full_name,
            self.method,
            found.type_name()
        ))
    }
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::Str(_) | Value::SurrogateStr(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Class = Class {
        name: "NameServer",
        full_name: "Pyro4.naming.NameServer",
    };
    const PING: Signature = Signature {
        method: "ping",
        parameters: &[],
        required_count: 0,
    };
    const LOOKUP: Signature = Signature {
        method: "lookup",
        parameters: &["name", "return_metadata"],
        required_count: 1,
    };
    const SET_METADATA: Signature = Signature {
        method: "set_metadata",
        parameters: &["name", "metadata"],
        required_count: 2,
    };

    fn refusal(signature: Signature, args: Value, kwargs: Value) -> String {
        let exception = signature
            .bind(CLASS, args, kwargs)
            .expect_err("these arguments are wrong");
        assert_eq!(exception.class.name(), "TypeError");
        match exception.args.as_slice() {
            [Value::Str(text)] => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn tuple(items: &[&str]) -> Value {
        Value::Tuple(items.iter().map(|item| (*item).into()).collect())
    }

    fn dict(keys: &[&str]) -> Value {
        Value::Dict(
            keys.iter()
                .map(|key| ((*key).into(), Value::None))
                .collect(),
        )
    }

    #[test]
    fn positions_and_keywords_reach_their_parameters() {
        let kwargs = Value::Dict(vec![("return_metadata".into(), Value::Float(0.0))]);
        let mut arguments = LOOKUP
            .bind(CLASS, Value::List(vec!["a".into()]), kwargs)
            .expect("a valid call");
        assert_eq!(arguments.required(0), "a".into());
        assert!(!arguments.flag(1, true), "0.0 is false");
        let mut arguments = LOOKUP
            .bind(CLASS, tuple(&["a"]), dict(&[]))
            .expect("a valid call");
        assert!(arguments.flag(1, true), "the default holds");
    }

    #[test]
    fn a_text_in_place_of_the_arguments_is_iterated() {
        let mut arguments = LOOKUP
            .bind(CLASS, "x".into(), dict(&[]))
            .expect("one character, one argument");
        assert_eq!(arguments.required(0), "x".into());
    }

    #[test]
    fn each_mistake_has_cpythons_text() {
        let none = || dict(&[]);
        let cases = [
            (
                LOOKUP,
                tuple(&["a"]),
                dict(&["foo"]),
                "NameServer.lookup() got an unexpected keyword argument 'foo'",
            ),
            (
                LOOKUP,
                tuple(&["a"]),
                dict(&["name"]),
                "NameServer.lookup() got multiple values for argument 'name'",
            ),
            (
                LOOKUP,
                tuple(&[]),
                dict(&["self"]),
                "NameServer.lookup() got multiple values for argument 'self'",
            ),
            (
                PING,
                tuple(&["1"]),
                none(),
                "NameServer.ping() takes 1 positional argument but 2 were given",
            ),
            (
                SET_METADATA,
                tuple(&["1", "2", "3"]),
                none(),
                "NameServer.set_metadata() takes 3 positional arguments but 4 were given",
            ),
            (
                LOOKUP,
                tuple(&["1", "2", "3"]),
                none(),
                "NameServer.lookup() takes from 2 to 3 positional arguments but 4 were given",
            ),
            (
                LOOKUP,
                tuple(&[]),
                none(),
                "NameServer.lookup() missing 1 required positional argument: 'name'",
            ),
            (
                SET_METADATA,
                tuple(&[]),
                none(),
                "NameServer.set_metadata() missing 2 required positional arguments: 'name' and 'metadata'",
            ),
            (
                PING,
                tuple(&[]),
                Value::None,
                "Pyro4.naming.NameServer.ping() argument after ** must be a mapping, not NoneType",
            ),
            (
                PING,
                Value::Int(5),
                none(),
                "Pyro4.naming.NameServer.ping() argument after * must be an iterable, not int",
            ),
            (
                PING,
                tuple(&[]),
                Value::Dict(vec![(Value::Int(1), Value::None)]),
                "keywords must be strings",
            ),
        ];
        for (signature, args, kwargs, expected) in cases {
            assert_eq!(refusal(signature, args, kwargs), expected);
        }
    }

    #[test]
    fn mistakes_are_found_in_cpythons_order() {
        let too_many = || tuple(&["1", "2", "3"]);
        assert!(refusal(LOOKUP, too_many(), dict(&["foo"])).contains("unexpected keyword"));
        assert!(refusal(LOOKUP, too_many(), dict(&["name"])).contains("multiple values"));
        assert!(refusal(LOOKUP, tuple(&["a"]), dict(&["foo", "name"])).contains("'foo'"));
        assert!(refusal(LOOKUP, tuple(&["a"]), dict(&["name", "foo"])).contains("'name'"));
        assert!(refusal(LOOKUP, Value::None, Value::None).contains("mapping"));
        let both_kinds = Value::Dict(vec![
            ("foo".into(), Value::None),
            (Value::Int(1), Value::None),
        ]);
        assert_eq!(
            refusal(LOOKUP, tuple(&[]), both_kinds),
            "keywords must be strings"
        );
    }
}
