//! How a checkpoint's tensors are spread over files: one, or shards with an index that says what is in which.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::index::SINGLE_FILE;
use super::tensor_writer::TensorHeader;

/// One file of a checkpoint.
#[derive(Debug, PartialEq)]
pub(super) struct Shard {
    pub file_name: String,
    /// In the order in which they are written.
    pub tensors: Vec<TensorHeader>,
}

/// Spreads tensors, in their order, over files whose values take at most `max_bytes`; a tensor larger than that has a file
/// of its own. Without a limit, and where all fit, the file is the single one that needs no index.
pub(super) fn into_shards(tensors: Vec<TensorHeader>, max_bytes: Option<u64>) -> Vec<Shard> {
    let max_bytes = max_bytes.unwrap_or(u64::MAX);
    let mut files: Vec<Vec<TensorHeader>> = vec![Vec::new()];
    let mut size: u64 = 0;
    for tensor in tensors {
        let grown = size.saturating_add(tensor.size_bytes());
        match files.last_mut() {
            Some(file) if file.is_empty() || grown <= max_bytes => {
                size = grown;
                file.push(tensor);
            }
            _ => {
                size = tensor.size_bytes();
                files.push(vec![tensor]);
            }
        }
    }
    let count = files.len();
    let name = |index: usize| match count {
        1 => SINGLE_FILE.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let shard = |(index, mut tensors): (usize, Vec<TensorHeader>)| {
        // Wide types first keeps every tensor aligned for its own type, so that readers can use it in place.
        tensors.sort_by_key(|tensor| Reverse(tensor.dtype.size_bytes()));
        Shard { file_name: name(index), tensors }
    };
    files.into_iter().enumerate().map(shard).collect()
}

/// The index of several shards, as transformers writes it.
pub(super) fn index_text(shards: &[Shard]) -> String {
    let tensors = || shards.iter().flat_map(|shard| shard.tensors.iter().map(move |tensor| (tensor, shard)));
    let total_size: u64 = tensors().map(|(tensor, _)| tensor.size_bytes()).fold(0, u64::saturating_add);
    let places: BTreeMap<&str, Value> =
        tensors().map(|(tensor, shard)| (tensor.name.as_str(), json!(shard.file_name))).collect();
    format!("{:#}\n", json!({ "metadata": { "total_size": total_size }, "weight_map": places }))
}

#[cfg(test)]
mod tests {
    use super::super::dtype::StoredDtype;
    use super::*;

    fn tensor(name: &str, values: usize, dtype: StoredDtype) -> TensorHeader {
        TensorHeader { name: name.to_owned(), shape: vec![values], dtype }
    }

    #[test]
    fn files_are_filled_in_order_up_to_the_limit() {
        let tensors = || {
            ["a", "b", "c", "d", "e"]
                .iter()
                .zip([4, 6, 30, 2, 3])
                .map(|(name, values)| tensor(name, values, StoredDtype::Bf16))
        };
        let names = |max_bytes| -> Vec<(String, String)> {
            let shards = into_shards(tensors().collect(), max_bytes).into_iter();
            shards.map(|shard| (shard.file_name, shard.tensors.iter().map(|tensor| &*tensor.name).collect())).collect()
        };
        let expected = [("1", "ab"), ("2", "c"), ("3", "de")];
        let expected =
            expected.map(|(number, names)| (format!("model-0000{number}-of-00003.safetensors"), names.to_owned()));
        assert_eq!(names(Some(20)), expected);
        for limit in [None, Some(90), Some(u64::MAX)] {
            assert_eq!(names(limit), [(SINGLE_FILE.to_owned(), "abcde".to_owned())]);
        }
        assert_eq!(names(Some(1)).len(), 5);
        let index: Value = serde_json::from_str(&index_text(&into_shards(tensors().collect(), Some(20)))).unwrap();
        assert_eq!(index["metadata"]["total_size"], 90);
        assert_eq!(index["weight_map"]["d"], "model-00003-of-00003.safetensors");
    }

    #[test]
    fn wide_types_come_first_within_a_file() {
        let tensors = vec![tensor("a", 1, StoredDtype::Bf16), tensor("b", 1, StoredDtype::F32)];
        let [shard] = &into_shards(tensors, None)[..] else { unreachable!() };
        assert_eq!(shard.tensors[0].name, "b");
    }
}
