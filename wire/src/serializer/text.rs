//! A builder for Python's `str`, which may hold lone surrogates.

use crate::Value;

/// Builds a Python `str` from texts and code points.
#[derive(Debug, Default)]
pub(super) struct TextBuilder {
    text: String,
    /// All code points, once one of them is a surrogate; `text` is then no longer used.
    points: Option<Vec<u32>>,
}

impl TextBuilder {
    /// Appends text.
    pub(super) fn push_str(&mut self, text: &str) {
        match &mut self.points {
            None => self.text.push_str(text),
            Some(points) => points.extend(text.chars().map(u32::from)),
        }
    }

    /// Appends one code point, which may be a surrogate. Returns false if there is no such code
    /// point.
    #[must_use]
    pub(super) fn push_point(&mut self, point: u32) -> bool {
        match (char::from_u32(point), &mut self.points) {
            (Some(character), None) => self.text.push(character),
            (None, None) => {
                if !(0xd800..0xe000).contains(&point) {
                    return false;
                }
                let mut points: Vec<u32> = self.text.chars().map(u32::from).collect();
                points.push(point);
                self.points = Some(points);
            }
            (_, Some(points)) => {
                if point > u32::from(char::MAX) {
                    return false;
                }
                points.push(point);
            }
        }
        true
    }

    /// Returns the finished `str`.
    pub(super) fn finish(self) -> Value {
        match self.points {
            None => Value::Str(self.text),
            Some(points) => Value::SurrogateStr(points.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surrogate_turns_text_into_code_points() {
        let mut builder = TextBuilder::default();
        builder.push_str("é");
        assert!(builder.push_point(0xd800));
        builder.push_str("x");
        assert!(builder.push_point(0x1f600));
        assert!(!builder.push_point(0x0011_0000));
        assert_eq!(
            builder.finish(),
            Value::SurrogateStr([0xe9, 0xd800, 0x78, 0x1f600].into())
        );
    }
}
