//! Attributes, items and what loops run over. Python's dicts, lists and strings have methods, which are attributes: one
//! that is named without being called is a value, which is true.

use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Methods that do not change their value; transformers' sandbox hides the others.
const DICT_METHODS: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const LIST_METHODS: [&str; 3] = ["copy", "count", "index"];
const STRING_METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// A method of a value, named and not called.
#[derive(Debug)]
struct Method {
    value: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        self.value.call_method(state, &self.name, arguments)
    }
}

/// Whether a value of some kind has a method of that name.
pub fn is_method_name(name: &str) -> bool {
    [&DICT_METHODS[..], &LIST_METHODS, &STRING_METHODS].iter().any(|methods| methods.contains(&name))
}

/// Whether it is a dict; namespaces, macros and `loop` are of the same kind to the library.
pub fn is_dict(value: &Value) -> bool {
    value.kind() == ValueKind::Map && !is_object(value, &["Namespace", "Loop", "Macro"])
}

/// Whether it is one of the library's own objects, which only have a name in common with what is public.
pub fn is_object(value: &Value, types: &[&str]) -> bool {
    value.as_object().is_some_and(|object| types.iter().any(|name| object.type_name().ends_with(name)))
}

/// Whether it is a method that is not called.
pub fn is_method(value: &Value) -> bool {
    value.downcast_object_ref::<Method>().is_some()
}

fn method(value: &Value, name: &str) -> Option<Value> {
    let methods: &[&str] = match value.kind() {
        ValueKind::String => &STRING_METHODS,
        ValueKind::Seq => &LIST_METHODS,
        ValueKind::Map if is_dict(value) => &DICT_METHODS,
        _ => &[],
    };
    methods.contains(&name).then(|| Value::from_object(Method { value: value.clone(), name: name.to_owned() }))
}

/// `value.name`: methods come before items.
pub fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match method(value, name) {
        Some(method) => Ok(method),
        None => value.get_attr(name),
    }
}

/// `value[key]`: items come before methods.
pub fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    let found = value.get_item(key)?;
    Ok(match key.as_str().filter(|_| found.is_undefined()).and_then(|name| method(value, name)) {
        Some(method) => method,
        None => found,
    })
}

/// What a loop runs over; the library takes None for an empty list.
pub fn looped_over(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "None cannot be looped over"));
    }
    Ok(value)
}
