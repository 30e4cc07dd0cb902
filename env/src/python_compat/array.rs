//! A list where pandas expects one value: numpy makes an array of it, and compares it element by element.

use super::{Exception, Value};

pub(crate) struct Array {
    shape: Vec<usize>,
    /// Row by row.
    items: Vec<Value>,
}

impl Array {
    /// # Errors
    /// Lists inside of the list have different lengths or stand beside other values.
    pub(crate) fn new(list: &[Value]) -> Result<Self, Exception> {
        let mut shape = vec![list.len()];
        let mut items = list.to_vec();
        loop {
            let mut lengths = items.iter().map(|item| match item {
                Value::List(inner) => Some(inner.len()),
                _ => None,
            });
            let Some(first) = lengths.next() else {
                break;
            };
            if lengths.any(|length| length != first) {
                return Err(Exception::value(format!(
                    "setting an array element with a sequence. The requested array has an inhomogeneous shape after {} \
                     dimensions. The detected shape was {} + inhomogeneous part.",
                    shape.len(),
                    tuple(&shape, ", ")
                )));
            }
            let Some(length) = first else {
                break;
            };
            shape.push(length);
            items = items
                .iter()
                .flat_map(|item| if let Value::List(inner) = item { &inner[..] } else { &[] })
                .cloned()
                .collect();
        }
        promote(&mut items);
        Ok(Self { shape, items })
    }

    /// The elements to compare with a column of `num_rows` cells, one for each.
    ///
    /// # Errors
    /// The array has another shape than the column.
    pub(crate) fn beside_column(&self, num_rows: usize) -> Result<&[Value], Exception> {
        let text = match self.shape[..] {
            [length] if length == num_rows => return Ok(&self.items),
            [length, ..] if length == num_rows => "Shapes must match",
            _ => "Lengths must match to compare",
        };
        Err(Exception::value(format!("('{text}', ({num_rows},), {})", tuple(&self.shape, ", "))))
    }

    /// Whether any cell equals the element that numpy's broadcasting puts beside it.
    ///
    /// # Errors
    /// The array cannot be broadcast to the column.
    pub(crate) fn is_equal_to_any<'a>(
        &self,
        cells: impl ExactSizeIterator<Item = &'a Value>,
    ) -> Result<bool, Exception> {
        let num_rows = cells.len();
        let width = self.shape.last().copied().unwrap_or_default();
        if width != num_rows && width != 1 && num_rows != 1 {
            return Err(Exception::value(format!(
                "operands could not be broadcast together with shapes ({num_rows},) {} ",
                tuple(&self.shape, ",")
            )));
        }
        let is_spread = width != num_rows;
        let mut beside = cells.enumerate().map(|(row, cell)| {
            let (start, step) = if is_spread { (0, 1) } else { (row, width) };
            self.items.iter().skip(start).step_by(step).any(|item| cell.equals(item))
        });
        Ok(beside.any(|is_equal| is_equal))
    }
}

/// Python's text of a tuple of numbers.
fn tuple(shape: &[usize], separator: &str) -> String {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    let end = if shape.len() == 1 { ",)" } else { ")" };
    format!("({}{end}", numbers.join(separator))
}

/// Gives the elements of an array one type, as numpy does: text if any is text, else the widest kind of number; with a null
/// or an object among them they stay as they are.
fn promote(items: &mut [Value]) {
    let has = |kind: fn(&Value) -> bool| items.iter().any(kind);
    if has(|item| matches!(item, Value::None | Value::Dict(_))) {
        return;
    }
    let has_text = has(|item| matches!(item, Value::Str(_)));
    let has_float = has(|item| matches!(item, Value::Float(_)));
    let has_integer = has(|item| matches!(item, Value::Int(_)));
    for item in items {
        let promoted = match &*item {
            other if has_text => other.text().into(),
            Value::Bool(flag) if has_float => Value::Float(f64::from(u8::from(*flag))),
            Value::Bool(flag) if has_integer => Value::Int(i128::from(*flag)),
            Value::Int(number) if has_float => Value::Float(*number as f64),
            _ => continue,
        };
        *item = promoted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python_compat::json;

    fn array(text: &str) -> Result<Array, String> {
        let Ok(Value::List(items)) = json::parse(text) else { panic!("{text}") };
        Array::new(&items).map_err(|exception| exception.text)
    }

    /// How a list compares with the column `a`, `b`, `c`.
    fn beside(text: &str) -> String {
        let array = match array(text) {
            Ok(array) => array,
            Err(error) => return error,
        };
        match array.beside_column(3) {
            Ok(items) => Value::List(items.to_vec().into()).repr(),
            Err(exception) => exception.text,
        }
    }

    #[test]
    fn a_list_needs_the_shape_of_the_column() {
        for (list, expected) in [
            (r#"["a",1,"c"]"#, "['a', '1', 'c']"),
            (r#"[true,1.5,"c"]"#, "['True', '1.5', 'c']"),
            (r#"["a",null,1]"#, "['a', None, 1]"),
            ("[1,2.5,true]", "[1.0, 2.5, 1.0]"),
            ("[true,false,1]", "[1, 0, 1]"),
            ("[1]", "('Lengths must match to compare', (3,), (1,))"),
            (r#"[["a","b","c"]]"#, "('Lengths must match to compare', (3,), (1, 3))"),
            ("[[1],[2],[3]]", "('Shapes must match', (3,), (3, 1))"),
            ("[[[1]],[[2]],[[3]]]", "('Shapes must match', (3,), (3, 1, 1))"),
        ] {
            assert_eq!(beside(list), expected, "{list}");
        }
        let ragged = |num_dimensions, shape| {
            format!(
                "setting an array element with a sequence. The requested array has an inhomogeneous shape after \
                 {num_dimensions} dimensions. The detected shape was {shape} + inhomogeneous part."
            )
        };
        assert_eq!(beside(r#"["a",["b"],"c"]"#), ragged(1, "(3,)"));
        assert_eq!(beside(r#"[["a"],["b","c"]]"#), ragged(1, "(2,)"));
        assert_eq!(beside("[[1,[2]],[3,[4]]]"), ragged(2, "(2, 2)"));
        assert_eq!(beside("[[[1]],[[2]],[[3,4]]]"), ragged(2, "(3, 1)"));
    }

    #[test]
    fn membership_broadcasts() {
        let cells = ["a", "b", "c"].map(Value::from);
        for (list, expected) in [
            (r#"["b"]"#, Ok(true)),
            (r#"["x","b","x"]"#, Ok(true)),
            (r#"["b","a","x"]"#, Ok(false)),
            (r#"[["x"],["c"]]"#, Ok(true)),
            (r#"[["x","y","z"],["x","b","z"]]"#, Ok(true)),
            (r#"[[["a"]]]"#, Ok(true)),
            (r#"["a","b"]"#, Err("(3,) (2,) ")),
            (r#"[["a","b"]]"#, Err("(3,) (1,2) ")),
            ("[[],[]]", Err("(3,) (2,0) ")),
        ] {
            let found = array(list).unwrap().is_equal_to_any(cells.iter()).map_err(|exception| exception.text);
            let text = "operands could not be broadcast together with shapes";
            assert_eq!(found, expected.map_err(|shapes| format!("{text} {shapes}")), "{list}");
        }
    }
}
