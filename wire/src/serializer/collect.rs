//! The parts that the four readers share: limits, and Python's rules for dict keys and sets.

use std::collections::HashMap;
use std::hash::Hash;

use num_bigint::BigInt;

use crate::{Exception, Limits, PyroClass, Value};

/// Maximum nesting, whatever the limits say: the readers, the writers and `Drop` recurse.
const DEPTH_CEILING: usize = 500;

/// Up to this number of items, duplicates are found by comparing all pairs.
const LINEAR_MAX: usize = 8;

/// The nesting and the values that one payload may still use.
#[derive(Debug)]
pub(super) struct Budget {
    depth_left: usize,
    values_left: usize,
}

impl Budget {
    /// Creates the budget for one payload.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            depth_left: limits.depth_max.min(DEPTH_CEILING),
            values_left: limits.value_count_max,
        }
    }

    /// Counts one value of any kind.
    ///
    /// # Errors
    /// `MessageTooLargeError` if the payload has more values than allowed.
    pub(super) fn value(&mut self) -> Result<(), Exception> {
        match self.values_left.checked_sub(1) {
            Some(left) => {
                self.values_left = left;
                Ok(())
            }
            None => Err(Exception::pyro(
                PyroClass::MessageTooLargeError,
                "message has too many values",
            )),
        }
    }

    /// Opens a container. Returns false if the nesting is too deep; each format has its own error for that.
    #[must_use]
    pub(super) fn enter(&mut self) -> bool {
        match self.depth_left.checked_sub(1) {
            Some(left) => {
                self.depth_left = left;
                true
            }
            None => false,
        }
    }

    /// Closes an open container.
    pub(super) fn leave(&mut self) {
        self.depth_left += 1;
    }
}

/// Collects the items of a dict as Python does. Keys that are equal (`1 == True == 1.0`) are one key: the first
/// of them and its position stay, the last value wins.
#[derive(Debug, Default)]
pub(super) struct DictBuilder {
    items: Vec<(Value, Value)>,
}

impl DictBuilder {
    /// Creates an empty dict.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds an item.
    ///
    /// # Errors
    /// `TypeError` if Python cannot hash `key`.
    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<(), Exception> {
        check_hashable(&key)?;
        self.items.push((key, value));
        Ok(())
    }

    /// Returns the items without duplicates.
    pub(super) fn finish(mut self) -> Vec<(Value, Value)> {
        let same_as = duplicates(self.items.len(), |index| {
            self.items.get(index).map(|(key, _)| key)
        });
        if same_as.is_empty() {
            return self.items;
        }
        for (later, first) in &same_as {
            let value = self
                .items
                .get_mut(*later)
                .map(|(_, value)| std::mem::replace(value, Value::None));
            if let (Some(value), Some((_, slot))) = (value, self.items.get_mut(*first)) {
                *slot = value;
            }
        }
        drop_positions(&mut self.items, &same_as);
        self.items
    }
}

/// Collects the elements of a set. The first of equal elements stays.
#[derive(Debug, Default)]
pub(super) struct SetBuilder {
    items: Vec<Value>,
}

impl SetBuilder {
    /// Creates an empty set.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds an element.
    ///
    /// # Errors
    /// `TypeError` if Python cannot hash `item`.
    pub(super) fn insert(&mut self, item: Value) -> Result<(), Exception> {
        check_hashable(&item)?;
        self.items.push(item);
        Ok(())
    }

    /// Returns the elements without duplicates, in the order of insertion.
    pub(super) fn finish(mut self) -> Vec<Value> {
        let same_as = duplicates(self.items.len(), |index| self.items.get(index));
        drop_positions(&mut self.items, &same_as);
        self.items
    }
}

/// Python's error for a value that cannot be hashed.
pub(super) fn unhashable(value: &Value) -> Exception {
    Exception::type_error(format!("unhashable type: '{}'", value.type_name()))
}

/// Checks that Python can hash `value`.
///
/// # Errors
/// `TypeError` that names the class that cannot be hashed.
fn check_hashable(value: &Value) -> Result<(), Exception> {
    match value {
        Value::List(_) | Value::Set(_) | Value::Dict(_) => Err(unhashable(value)),
        Value::Tuple(items) => items.iter().try_for_each(check_hashable),
        _ => Ok(()),
    }
}

/// Returns the positions that repeat an earlier one, as pairs of position and first position, in ascending
/// order.
fn duplicates<'a>(len: usize, key_at: impl Fn(usize) -> Option<&'a Value>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    if len <= LINEAR_MAX {
        for later in 1..len {
            let first = (0..later).find(|first| match (key_at(*first), key_at(later)) {
                (Some(Value::Str(a)), Some(Value::Str(b))) => a == b,
                (Some(Value::Str(_)), _) | (_, Some(Value::Str(_))) => false,
                (Some(a), Some(b)) => Key::of(a).is_some_and(|a| Key::of(b) == Some(a)),
                _ => false,
            });
            found.extend(first.map(|first| (later, first)));
        }
        return found;
    }
    let mut seen: HashMap<Key<'a>, usize> = HashMap::with_capacity(len);
    for position in 0..len {
        let Some(key) = key_at(position).and_then(Key::of) else {
            continue;
        };
        let first = *seen.entry(key).or_insert(position);
        if first != position {
            found.push((position, first));
        }
    }
    found
}

fn drop_positions<T>(items: &mut Vec<T>, same_as: &[(usize, usize)]) {
    let mut dropped = same_as.iter().map(|(later, _)| *later).peekable();
    if dropped.peek().is_none() {
        return;
    }
    let mut position = 0;
    items.retain(|_| {
        let drop = dropped.next_if_eq(&position).is_some();
        position += 1;
        !drop
    });
}

/// A key in a form for which plain equality is Python's `==` on keys.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Other(Vec<u8>),
}

impl<'a> Key<'a> {
    /// Returns `None` for keys that equal nothing, not even themselves: keys that contain a not-a-number, and
    /// objects, which Python compares by identity.
    fn of(value: &'a Value) -> Option<Self> {
        if let Value::Str(text) = value {
            return Some(Self::Text(text));
        }
        let mut bytes = Vec::new();
        canonical(value, &mut bytes).then_some(Self::Other(bytes))
    }
}

/// Appends bytes that are the same for exactly those values that Python calls equal. Returns false if the value
/// equals no other value.
fn canonical(value: &Value, out: &mut Vec<u8>) -> bool {
    let text = |tag: u8, bytes: &[u8], out: &mut Vec<u8>| {
        out.push(tag);
        out.extend_from_slice(&bytes.len().to_le_bytes());
        out.extend_from_slice(bytes);
        true
    };
    match value {
        Value::None => text(b'N', &[], out),
        Value::Ellipsis => text(b'.', &[], out),
        Value::Bool(value) => small_integer(i64::from(*value), out),
        Value::Int(value) => small_integer(*value, out),
        Value::BigInt(value) => integer(value, out),
        Value::Float(value) => number(*value, out),
        Value::Complex(real, imaginary) if *imaginary == 0.0 => number(*real, out),
        Value::Complex(real, imaginary) => {
            out.push(b'c');
            number(*real, out) && number(*imaginary, out)
        }
        Value::Str(string) => text(b's', string.as_bytes(), out),
        Value::SurrogateStr(points) => {
            out.push(b'S');
            out.extend_from_slice(&points.len().to_le_bytes());
            out.extend(points.iter().flat_map(|point| point.to_le_bytes()));
            true
        }
        Value::Bytes(bytes) => text(b'b', bytes, out),
        Value::Tuple(items) => {
            out.push(b'(');
            out.extend_from_slice(&items.len().to_le_bytes());
            items.iter().all(|item| canonical(item, out))
        }
        Value::FrozenSet(items) => {
            let mut parts = Vec::with_capacity(items.len());
            for item in items {
                let mut part = Vec::new();
                if !canonical(item, &mut part) {
                    return false;
                }
                parts.push(part);
            }
            parts.sort_unstable();
            out.push(b'{');
            out.extend_from_slice(&parts.len().to_le_bytes());
            out.extend(parts.iter().flatten());
            true
        }
        Value::Uri(uri) => text(b'u', uri.to_string().as_bytes(), out),
        Value::List(_)
        | Value::Set(_)
        | Value::Dict(_)
        | Value::Exception(_)
        | Value::ExceptionWrapper(_)
        | Value::Object(_) => false,
    }
}

/// Appends a float. An integral float gets the same bytes as the int.
fn number(value: f64, out: &mut Vec<u8>) -> bool {
    if value.is_nan() {
        return false;
    }
    if value.fract() == 0.0 {
        return integer(&exact_integer(value), out);
    }
    out.push(b'f');
    out.extend_from_slice(&value.to_bits().to_le_bytes());
    true
}

fn small_integer(value: i64, out: &mut Vec<u8>) -> bool {
    out.push(b'i');
    out.extend_from_slice(&value.to_le_bytes());
    true
}

fn integer(value: &BigInt, out: &mut Vec<u8>) -> bool {
    if let Ok(small) = i64::try_from(value) {
        return small_integer(small, out);
    }
    let bytes = value.to_signed_bytes_le();
    out.push(b'I');
    out.extend_from_slice(&bytes.len().to_le_bytes());
    out.extend_from_slice(&bytes);
    true
}

/// The integer that a finite float without a fraction represents.
fn exact_integer(value: f64) -> BigInt {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i64 - 1075;
    let mantissa = BigInt::from(bits & ((1 << 52) - 1) | 1 << 52);
    let magnitude = if value == 0.0 {
        BigInt::ZERO
    } else if exponent >= 0 {
        mantissa << exponent
    } else {
        mantissa >> -exponent
    };
    if value.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(items: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
        let mut builder = DictBuilder::new();
        for (key, value) in items {
            builder.insert(key, value).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn equal_numbers_are_one_key_whose_last_value_wins() {
        let items = vec![
            (Value::Int(1), "a".into()),
            ("x".into(), "b".into()),
            (Value::Bool(true), "c".into()),
            (Value::Float(1.0), "d".into()),
            (Value::Complex(1.0, 0.0), "e".into()),
            (Value::Float(1.5), "f".into()),
        ];
        let expected = vec![
            (Value::Int(1), "e".into()),
            ("x".into(), "b".into()),
            (Value::Float(1.5), "f".into()),
        ];
        assert_eq!(dict(items.clone()), expected);
        // The same dict, above the size at which the hash table is used.
        let filler = (0..20).map(|n| (Value::Str(format!("k{n}")), Value::None));
        let mut long = items;
        long.extend(filler.clone());
        let mut expected = expected;
        expected.extend(filler);
        assert_eq!(dict(long), expected);
    }

    #[test]
    fn huge_floats_equal_the_same_integers() {
        let big = Value::BigInt(Box::new(BigInt::from(10).pow(22)));
        let items = vec![
            (Value::Float(1e22), Value::Int(1)),
            (big, Value::Int(2)),
            (Value::Float(-0.0), Value::Int(3)),
            (Value::Int(0), Value::Int(4)),
            (Value::Float(f64::INFINITY), Value::Int(5)),
        ];
        assert_eq!(dict(items).len(), 3);
    }

    #[test]
    fn not_a_number_is_never_the_same_key() {
        let nan = || (Value::Float(f64::NAN), Value::None);
        assert_eq!(dict(vec![nan(), nan()]).len(), 2);
        assert_eq!(dict((0..100).map(|_| nan()).collect()).len(), 100);
    }

    #[test]
    fn sets_keep_the_first_of_equal_elements() {
        let mut builder = SetBuilder::new();
        for item in [Value::Int(1), Value::Bool(true), "a".into(), "a".into()] {
            builder.insert(item).unwrap();
        }
        assert_eq!(builder.finish(), vec![Value::Int(1), "a".into()]);
    }

    #[test]
    fn lists_are_no_keys_even_inside_tuples() {
        let key = Value::Tuple(vec![Value::Int(1), Value::List(vec![])]);
        let error = DictBuilder::new().insert(key, Value::None).unwrap_err();
        assert_eq!(error, Exception::type_error("unhashable type: 'list'"));
    }
}
