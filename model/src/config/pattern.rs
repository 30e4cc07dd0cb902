//! The order of a hybrid model's blocks, which every other part of the model is built from.
//!
//! One block is one sub-layer. Published configurations spell the order as a string with one letter per block
//! (`hybrid_override_pattern`), newer ones as a list of names (`layers_block_type`); both become a [`HybridPattern`].

use std::fmt;
use std::ops::Index;

/// Letters of `hybrid_override_pattern`, as error messages quote them.
pub const ALLOWED_LETTERS: &str = "M (Mamba-2), * (attention), - (MLP), E (mixture of experts)";
/// Names of `layers_block_type`, as error messages quote them.
pub const ALLOWED_NAMES: &str =
    "\"linear_attention\" or \"mamba\" (Mamba-2), \"full_attention\" or \"attention\", \"mlp\", \"moe\"";

/// What the single sub-layer of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Mamba-2 mixer, letter `M`.
    Mamba2,
    /// Grouped-query attention without position encoding, letter `*`.
    Attention,
    /// Squared-ReLU MLP, letter `-`.
    Mlp,
    /// Mixture of experts, letter `E`.
    Moe,
}

impl LayerKind {
    /// The kind a pattern letter stands for.
    pub fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'M' => Some(Self::Mamba2),
            '*' => Some(Self::Attention),
            '-' => Some(Self::Mlp),
            'E' => Some(Self::Moe),
            _ => None,
        }
    }

    /// The kind a `layers_block_type` name stands for, in the spelling of any transformers release.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "linear_attention" | "mamba" | "mamba2" => Some(Self::Mamba2),
            "full_attention" | "attention" => Some(Self::Attention),
            "mlp" => Some(Self::Mlp),
            "moe" => Some(Self::Moe),
            _ => None,
        }
    }

    /// The pattern letter of this kind.
    pub fn letter(self) -> char {
        match self {
            Self::Mamba2 => 'M',
            Self::Attention => '*',
            Self::Mlp => '-',
            Self::Moe => 'E',
        }
    }
}

/// The kinds of all blocks, first to last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HybridPattern(Vec<LayerKind>);

/// A letter or name that stands for no kind of block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLayer {
    /// Index of the block, from 0.
    pub position: usize,
    /// The letter or name found there.
    pub found: String,
}

impl HybridPattern {
    /// A pattern from kinds.
    pub fn new(layers: Vec<LayerKind>) -> Self {
        Self(layers)
    }

    /// Parses letters such as `M-M*-`.
    ///
    /// # Errors
    /// The first letter that stands for no kind.
    pub fn from_letters(letters: &str) -> Result<Self, UnknownLayer> {
        let kinds = letters.chars().enumerate().map(|(position, letter)| {
            LayerKind::from_letter(letter).ok_or_else(|| UnknownLayer { position, found: letter.to_string() })
        });
        kinds.collect::<Result<_, _>>().map(Self)
    }

    /// Parses a list of names such as `["mamba", "mlp"]`.
    ///
    /// # Errors
    /// The first name that stands for no kind.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownLayer> {
        let kinds = names.into_iter().enumerate().map(|(position, name)| {
            LayerKind::from_name(name).ok_or_else(|| UnknownLayer { position, found: name.to_owned() })
        });
        kinds.collect::<Result<_, _>>().map(Self)
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no block at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many blocks are of `kind`.
    pub fn count(&self, kind: LayerKind) -> usize {
        self.0.iter().filter(|layer| **layer == kind).count()
    }

    /// Whether any block is of `kind`.
    pub fn contains(&self, kind: LayerKind) -> bool {
        self.0.contains(&kind)
    }

    /// The kinds in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = LayerKind> + '_ {
        self.0.iter().copied()
    }

    /// The kinds in order, as a slice.
    pub fn as_slice(&self) -> &[LayerKind] {
        &self.0
    }
}

impl Index<usize> for HybridPattern {
    type Output = LayerKind;

    fn index(&self, index: usize) -> &LayerKind {
        &self.0[index]
    }
}

impl fmt::Display for HybridPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|kind| write!(formatter, "{}", kind.letter()))
    }
}
