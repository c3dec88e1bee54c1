//! A store path and all that it needs: what is known of each, and what may be put into the store next. Values only.

use std::collections::{BTreeMap, BTreeSet};

use vm_model::StoreName;

use crate::narinfo::Narinfo;

/// Paths of one closure that are missing from the store.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    paths: BTreeMap<StoreName, Step>,
    /// Names that were seen already.
    seen: BTreeSet<StoreName>,
}

#[derive(Debug)]
enum Step {
    Known(Box<Known>),
    Unpacked(Box<Known>),
    Published,
}

/// A path that a cache has, and which cache that is, by its place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) narinfo: Narinfo,
    pub(crate) cache: usize,
}

impl Closure {
    /// Notes names that are to be looked up; those that were not seen before.
    pub(crate) fn notice(&mut self, names: impl IntoIterator<Item = StoreName>) -> Vec<StoreName> {
        names.into_iter().filter(|name| self.seen.insert(name.clone())).collect()
    }

    /// Notes what is known of a path that is missing.
    pub(crate) fn add(&mut self, known: Known) {
        self.paths.insert(known.narinfo.name.clone(), Step::Known(Box::new(known)));
    }

    /// How many paths are missing.
    pub(crate) fn len(&self) -> usize {
        self.paths.len()
    }

    /// How many bytes the archives of all have.
    pub(crate) fn nar_size(&self) -> u64 {
        let sizes = self.paths.values().map(|step| match step {
            Step::Known(known) | Step::Unpacked(known) => known.narinfo.nar_size,
            Step::Published => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// All that is to be downloaded, largest first: the longest part of the work does not begin last.
    pub(crate) fn downloads(&self) -> Vec<Known> {
        let known = self.paths.values().filter_map(|step| match step {
            Step::Known(known) => Some(known.as_ref().clone()),
            Step::Unpacked(_) | Step::Published => None,
        });
        let mut downloads: Vec<Known> = known.collect();
        downloads.sort_by_key(|known| std::cmp::Reverse(known.narinfo.nar_size));
        downloads
    }

    /// Notes that a path was unpacked whole and right.
    pub(crate) fn unpacked(&mut self, name: &StoreName) {
        if let Some(step) = self.paths.get_mut(name)
            && let Step::Known(known) = step
        {
            *step = Step::Unpacked(known.clone());
        }
    }

    /// Takes out a path that is unpacked and all of whose references are in the store; it counts as published from now on.
    pub(crate) fn next_to_publish(&mut self) -> Option<Narinfo> {
        let is_there =
            |name: &StoreName| !matches!(self.paths.get(name), Some(Step::Known(_) | Step::Unpacked(_)));
        let next = self.paths.iter().find_map(|(name, step)| match step {
            Step::Unpacked(known) => {
                let mut others = known.narinfo.references.iter().filter(|reference| *reference != name);
                others.all(is_there).then(|| name.clone())
            }
            Step::Known(_) | Step::Published => None,
        })?;
        match self.paths.insert(next, Step::Published) {
            Some(Step::Unpacked(known)) => Some(known.narinfo),
            Some(Step::Known(_) | Step::Published) | None => None,
        }
    }

    /// One of those that are unpacked and never can be published, where nothing more is to come.
    pub(crate) fn stuck(&self) -> Option<&StoreName> {
        let mut steps = self.paths.iter();
        steps.find(|(_, step)| !matches!(step, Step::Published)).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::NarHash;

    use super::*;
    use crate::compression::Compression;

    fn name(index: usize) -> StoreName {
        format!("3n58xw4373jp0ljirf06d8077j15pc4j-p{index}").parse().expect("a name")
    }

    fn known(index: usize, references: impl IntoIterator<Item = usize>) -> Known {
        let narinfo = Narinfo {
            name: name(index),
            store: "/nix/store".to_owned(),
            url: "nar/x".to_owned(),
            compression: Compression::None,
            file_size: None,
            nar_hash: NarHash::new([0; 32]),
            nar_size: index as u64,
            references: references.into_iter().map(name).collect(),
            signatures: Vec::new(),
        };
        Known { narinfo, cache: 0 }
    }

    #[test]
    fn a_circle_is_never_published() {
        let mut closure = Closure::default();
        closure.add(known(0, [1]));
        closure.add(known(1, [0]));
        closure.unpacked(&name(0));
        closure.unpacked(&name(1));
        assert!(closure.next_to_publish().is_none());
        assert_eq!(closure.stuck(), Some(&name(0)));
    }

    proptest! {
        /// References lead to greater numbers only and, as in any store, often to the path itself.
        #[test]
        fn all_is_published_and_nothing_before_what_it_needs(
            edges in proptest::collection::vec((0..12_usize, 0..12_usize), 0..40),
            order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let references = |from: usize| -> Vec<usize> {
                let leads = edges.iter().map(|(one, other)| (*one.min(other), *one.max(other)));
                leads.filter(|(start, _)| *start == from).map(|(_, end)| end).collect()
            };
            let mut closure = Closure::default();
            (0..12).for_each(|index| closure.add(known(index, references(index))));
            let mut published: Vec<StoreName> = Vec::new();
            for index in order {
                closure.unpacked(&name(index));
                while let Some(next) = closure.next_to_publish().map(|narinfo| narinfo.name) {
                    let own = (0..12).find(|index| name(*index) == next).expect("one of them");
                    let mut needed = references(own).into_iter().filter(|other| *other != own);
                    prop_assert!(needed.all(|other| published.contains(&name(other))));
                    published.push(next);
                }
            }
            prop_assert_eq!(published.len(), 12);
            prop_assert_eq!(closure.stuck(), None);
        }
    }
}
