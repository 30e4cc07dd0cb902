//! The batch as a tree: every run of tokens that sequences share is there once.
//!
//! A batch of rollouts is mostly repetition: all start with the same system text and tools, the samples of one prompt
//! with the same prompt. The tree holds each distinct run as one **segment**; a sequence is the path from a root to
//! its leaf. Forward and backward passes then visit segments instead of sequences, and cost tokens of the tree.
//!
//! Invariants: the segments on a sequence's path, joined, are the sequence; every sequence ends at a leaf of its own,
//! which holds at least its last token; a segment with several sequences is at least `min_shared_length` long and lies
//! within what each of them allows to be shared; parents come before children, and a child's whole subtree before the
//! next child (depth-first order).
//!
//! This file knows token ids and nothing else: no model, no tensors.

use std::ops::Range;

use crate::policy::api::TokenId;

/// Index of a segment in [`TokenTree::segments`].
pub type SegmentId = usize;

/// A run of tokens that one or more sequences pass through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub parent: Option<SegmentId>,
    /// In ascending order; leaves are among them.
    pub children: Vec<SegmentId>,
    /// A sequence that passes through; its tokens in `range` are the segment's.
    pub sequence: usize,
    /// Token positions within a sequence, from its start.
    pub range: Range<usize>,
    /// The sequence that ends here; leaves have one, inner segments none.
    pub leaf_of: Option<usize>,
}

impl Segment {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether the segment has no tokens, which only a leaf of an empty sequence has.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// Sequences with their common prefixes merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTree {
    segments: Vec<Segment>,
    /// Per sequence, its leaf.
    leaves: Vec<SegmentId>,
}

impl TokenTree {
    /// Builds the tree of sequences of token ids, in which any prefix short of a sequence's last token may be shared.
    ///
    /// Tokens are merged only in runs of at least `min_shared_length` (1 if 0): every segment costs a pass of its own,
    /// which a few shared tokens do not repay.
    pub fn build<S: AsRef<[TokenId]>>(sequences: &[S], min_shared_length: usize) -> Self {
        Self::build_within(sequences, &vec![usize::MAX; sequences.len()], min_shared_length)
    }

    /// As [`TokenTree::build`], where only the first `shareable[i]` tokens of sequence `i` may be shared.
    ///
    /// A trainer that wants every log-prob of a rollout from the rollout's own leaf passes the position before its first
    /// trained token, since a token's log-prob comes from the hidden state one position earlier.
    ///
    /// # Panics
    /// When `shareable` and `sequences` differ in length.
    pub fn build_within<S: AsRef<[TokenId]>>(sequences: &[S], shareable: &[usize], min_shared_length: usize) -> Self {
        assert_eq!(sequences.len(), shareable.len(), "one limit per sequence");
        let sequences: Vec<&[TokenId]> = sequences.iter().map(AsRef::as_ref).collect();
        let limits = sequences.iter().zip(shareable).map(|(tokens, limit)| tokens.len().saturating_sub(1).min(*limit));
        let partition =
            Partition { limits: limits.collect(), min_shared_length: min_shared_length.max(1), sequences: &sequences };
        let mut tree = TokenTree { segments: Vec::new(), leaves: vec![0; sequences.len()] };
        // An explicit stack: prefixes can nest as deep as there are sequences.
        let mut stack = partition.branches((0..sequences.len()).collect(), 0, None);
        while let Some(branch) = stack.pop() {
            let id = tree.push(&branch);
            if branch.members.len() > 1 {
                stack.extend(partition.branches(branch.members, branch.range.end, Some(id)));
            }
        }
        tree
    }

    fn push(&mut self, branch: &Branch) -> SegmentId {
        let id = self.segments.len();
        let (sequence, is_leaf) = (branch.members[0], branch.members.len() == 1);
        self.segments.push(Segment {
            parent: branch.parent,
            children: Vec::new(),
            sequence,
            range: branch.range.clone(),
            leaf_of: is_leaf.then_some(sequence),
        });
        if is_leaf {
            self.leaves[sequence] = id;
        }
        if let Some(parent) = branch.parent {
            self.segments[parent].children.push(id);
        }
        id
    }

    /// All segments, parents before children.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segments without a parent, in order.
    pub fn roots(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.segments.iter().enumerate().filter(|(_, segment)| segment.parent.is_none()).map(|(id, _)| id)
    }

    /// The segment at which a sequence ends.
    pub fn leaf(&self, sequence: usize) -> SegmentId {
        self.leaves[sequence]
    }

    /// The segments of a sequence from root to leaf.
    pub fn path(&self, sequence: usize) -> Vec<SegmentId> {
        let mut path = vec![self.leaves[sequence]];
        while let Some(parent) = path.last().and_then(|id| self.segments[*id].parent) {
            path.push(parent);
        }
        path.reverse();
        path
    }

    /// A segment's tokens, given the sequences the tree was built from.
    pub fn tokens<'a, S: AsRef<[TokenId]>>(&self, id: SegmentId, sequences: &'a [S]) -> &'a [TokenId] {
        let segment = &self.segments[id];
        &sequences[segment.sequence].as_ref()[segment.range.clone()]
    }

    /// Tokens that are computed: the sum over segments.
    pub fn num_tokens(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }
}

/// Sequences that go on together for the tokens of `range`, or a single one to its end.
struct Branch {
    parent: Option<SegmentId>,
    /// Ascending; never empty.
    members: Vec<usize>,
    range: Range<usize>,
}

struct Partition<'a> {
    sequences: &'a [&'a [TokenId]],
    /// Per sequence, how many of its first tokens may be shared.
    limits: Vec<usize>,
    min_shared_length: usize,
}

impl Partition<'_> {
    /// Splits sequences that agree on their first `start` tokens into branches, last branch first.
    fn branches(&self, members: Vec<usize>, start: usize, parent: Option<SegmentId>) -> Vec<Branch> {
        let least_end = start + self.min_shared_length;
        let (mut open, closed): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| self.limits[*member] >= least_end);
        // In lexical order, sequences that share a prefix are neighbours, and what a run of them shares is the least
        // that two neighbours in it share.
        open.sort_by(|a, b| self.sequences[*a][start..].cmp(&self.sequences[*b][start..]).then(a.cmp(b)));
        let mut branches: Vec<Branch> = closed.into_iter().map(|member| self.single(member, start, parent)).collect();
        let mut rest = open.as_slice();
        while let [first, ..] = rest {
            let mut end = self.limits[*first];
            let mut count = 1;
            while let Some(next) = rest.get(count) {
                let shared = self.shared_length(rest[count - 1], *next, start);
                if shared < least_end {
                    break;
                }
                end = end.min(shared);
                count += 1;
            }
            let (run, remaining) = rest.split_at(count);
            rest = remaining;
            if count == 1 {
                branches.push(self.single(*first, start, parent));
            } else {
                let mut members = run.to_vec();
                members.sort_unstable();
                branches.push(Branch { parent, members, range: start..end });
            }
        }
        branches.sort_unstable_by_key(|branch| std::cmp::Reverse(branch.members[0]));
        branches
    }

    fn single(&self, member: usize, start: usize, parent: Option<SegmentId>) -> Branch {
        Branch { parent, members: vec![member], range: start..self.sequences[member].len() }
    }

    /// Length of the prefix that two sequences share and may share; they agree on the first `start` tokens.
    fn shared_length(&self, a: usize, b: usize, start: usize) -> usize {
        let limit = self.limits[a].min(self.limits[b]);
        let (left, right) = (&self.sequences[a][start..], &self.sequences[b][start..]);
        let equal = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        (start + equal).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_prompt_is_there_once() {
        let sequences = [vec![1, 2, 3, 4, 5], vec![1, 2, 3, 6], vec![1, 2, 3, 4, 7], vec![9]];
        let tree = TokenTree::build(&sequences, 1);
        let ranges: Vec<_> = tree.segments().iter().map(|segment| segment.range.clone()).collect();
        assert_eq!(ranges, [0..3, 3..4, 4..5, 4..5, 3..4, 0..1]);
        assert_eq!(tree.path(2), [0, 1, 3]);
        assert_eq!(tree.roots().collect::<Vec<_>>(), [0, 5]);
        assert_eq!(tree.segments()[0].children, [1, 4]);
        assert_eq!(tree.num_tokens(), 8);
        assert_eq!(tree.tokens(1, &sequences), [4]);
    }

    #[test]
    fn short_agreements_are_not_merged_but_longer_ones_within_them_are() {
        let sequences = [vec![1, 2, 3, 4, 5], vec![1, 8, 8, 8, 8], vec![1, 2, 3, 4, 6], vec![1, 8, 8, 8, 9]];
        let tree = TokenTree::build(&sequences, 3);
        assert_eq!(tree.roots().count(), 2);
        assert_eq!(tree.segments()[tree.path(0)[0]].range, 0..4);
        assert_eq!(tree.path(0)[0], tree.path(2)[0]);
        assert_eq!(tree.num_tokens(), 20 - 8);
    }

    #[test]
    fn limits_keep_trained_tokens_apart() {
        let sequences = [vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 6]];
        let tree = TokenTree::build_within(&sequences, &[2, 2, 2], 1);
        assert_eq!(tree.segments()[0].range, 0..2);
        assert_eq!(tree.segments()[0].children.len(), 3);
        assert_eq!(TokenTree::build_within(&sequences, &[0, 0, 0], 1).num_tokens(), 15);
    }

    /// Random batches with much repetition; small alphabets make accidental agreements frequent.
    #[test]
    fn the_tree_is_the_sequences() {
        let mut state = 1u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for round in 0..500 {
            let mut sequences: Vec<Vec<TokenId>> = Vec::new();
            for _ in 0..random(12) {
                let mut tokens = match sequences.len() {
                    0 => Vec::new(),
                    known => {
                        let other = &sequences[random(known as u64) as usize];
                        other[..random(other.len() as u64 + 1) as usize].to_vec()
                    }
                };
                tokens.extend((0..random(8)).map(|_| random(3) as TokenId));
                sequences.push(tokens);
            }
            let min_shared_length = random(4) as usize;
            let limits: Vec<usize> = sequences.iter().map(|_| random(12) as usize).collect();
            let tree = TokenTree::build_within(&sequences, &limits, min_shared_length);
            assert_eq!(tree, TokenTree::build_within(&sequences, &limits, min_shared_length), "round {round}");
            check(&tree, &sequences, &limits, min_shared_length.max(1));
        }
    }

    fn check(tree: &TokenTree, sequences: &[Vec<TokenId>], limits: &[usize], min_shared_length: usize) {
        let mut passes = vec![0usize; tree.segments().len()];
        for (index, tokens) in sequences.iter().enumerate() {
            let path = tree.path(index);
            let joined: Vec<TokenId> = path.iter().flat_map(|id| tree.tokens(*id, sequences).iter().copied()).collect();
            assert_eq!(&joined, tokens);
            let mut position = 0;
            for id in &path {
                assert_eq!(tree.segments()[*id].range.start, position);
                position = tree.segments()[*id].range.end;
                passes[*id] += 1;
            }
            assert_eq!(tree.segments()[tree.leaf(index)].leaf_of, Some(index));
            assert!(tokens.is_empty() || !tree.segments()[tree.leaf(index)].is_empty());
            let shared = path.iter().filter(|id| tree.segments()[**id].leaf_of.is_none());
            assert!(shared.map(|id| tree.segments()[*id].range.end).max().unwrap_or(0) <= limits[index]);
        }
        for (id, segment) in tree.segments().iter().enumerate() {
            assert!(segment.parent.is_none_or(|parent| parent < id && tree.segments()[parent].children.contains(&id)));
            assert!(segment.children.is_sorted());
            match segment.leaf_of {
                Some(_) => assert!(passes[id] == 1 && segment.children.is_empty()),
                None => assert!(passes[id] > 1 && segment.children.len() > 1 && segment.len() >= min_shared_length),
            }
            // Depth first: a subtree is a run of ids.
            let subtree_end = |id: SegmentId| {
                let mut end = id;
                while let Some(last) = tree.segments()[end].children.last() {
                    end = *last;
                }
                end
            };
            for pair in segment.children.windows(2) {
                assert_eq!(subtree_end(pair[0]) + 1, pair[1]);
            }
            assert!(segment.children.first().is_none_or(|first| *first == id + 1));
        }
        let saved: usize =
            tree.segments().iter().zip(&passes).map(|(segment, passes)| segment.len() * (passes - 1)).sum();
        assert_eq!(tree.num_tokens(), sequences.iter().map(Vec::len).sum::<usize>() - saved);
    }
}
