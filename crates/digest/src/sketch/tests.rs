//! Sketches decode random differences from few symbols, and bad symbols do no harm.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{
    CHECK_MASK, Decoder, Encoder, Symbol, Width, decode_symbols, encode_symbols,
    encode_symbols_short, mix,
};

/// Adds symbols one by one until the difference is known.
fn reconcile(remote: &BTreeSet<u64>, local: &BTreeSet<u64>, symbols_max: usize) -> Decoder {
    let mut encoder = Encoder::new(remote.iter().copied());
    let mut decoder = Decoder::new(local.iter().copied());
    while !decoder.decoded() && decoder.symbols() < symbols_max {
        decoder.add(&encoder.symbols(1));
    }
    decoder
}

fn sorted(mut elements: Vec<u64>) -> Vec<u64> {
    elements.sort_unstable();
    elements
}

proptest! {
    #[test]
    fn a_random_difference_is_found(
        both in btree_set(any::<u64>(), 0..200),
        here in btree_set(any::<u64>(), 0..60),
        there in btree_set(any::<u64>(), 0..60),
    ) {
        let remote: BTreeSet<u64> = both.union(&there).copied().collect();
        let local: BTreeSet<u64> = both.union(&here).copied().collect();
        let decoder = reconcile(&remote, &local, 2000);
        prop_assert!(decoder.decoded());
        let (only_remote, only_local) = decoder.difference();
        let expected: Vec<u64> = remote.difference(&local).copied().collect();
        prop_assert_eq!(sorted(only_remote), expected);
        let expected: Vec<u64> = local.difference(&remote).copied().collect();
        prop_assert_eq!(sorted(only_local), expected);
    }

    #[test]
    fn symbols_do_not_depend_on_how_many_are_asked_for_at_once(
        elements in btree_set(any::<u64>(), 0..50), counts in vec(0..700usize, 1..6)
    ) {
        let total = counts.iter().sum();
        let whole = Encoder::new(elements.iter().copied()).symbols(total);
        let mut encoder = Encoder::new(elements.iter().copied());
        let pieces: Vec<Symbol> = counts.iter().flat_map(|n| encoder.symbols(*n)).collect();
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn symbols_round_trip_and_torn_ones_are_refused(
        list in vec((any::<u64>(), any::<u64>(), any::<i64>()), 0..9),
        from: u32, elements: u64, noise: Vec<u8>
    ) {
        let symbols: Vec<Symbol> = list
            .into_iter()
            .map(|(sum, check, count)| Symbol { sum, check: check & CHECK_MASK, count })
            .collect();
        let short = encode_symbols_short(&symbols, Width::Wide, from.into(), elements);
        let narrow: Vec<Symbol> = symbols
            .iter()
            .map(|symbol| Symbol { sum: symbol.sum & Width::Narrow.mask(), ..*symbol })
            .collect();
        let told = encode_symbols_short(&narrow, Width::Narrow, from.into(), elements);
        let all = [(encode_symbols(&symbols), &symbols), (short, &symbols), (told, &narrow)];
        for (bytes, symbols) in all {
            for cut in 0..bytes.len() {
                prop_assert!(decode_symbols(&bytes[..cut]).is_err());
            }
            prop_assert_eq!(decode_symbols(&bytes), Ok(symbols.clone()));
        }
        let _ = decode_symbols(&noise);
    }

    #[test]
    fn elements_of_either_width_round_trip(elements: Vec<u64>, noise: Vec<u8>) {
        for width in [Width::Wide, Width::Narrow] {
            let elements: Vec<u64> = elements.iter().map(|one| one & width.mask()).collect();
            let bytes = width.encode(&elements);
            prop_assert_eq!(bytes.len(), elements.len() * width.bytes());
            prop_assert_eq!(width.decode(&bytes), Ok(elements));
            prop_assert_eq!(width.decode(&noise).is_ok(), noise.len() % width.bytes() == 0);
        }
    }

    #[test]
    fn nonsense_from_a_peer_ends(
        list in vec((0..8u64, any::<i8>(), any::<bool>()), 0..200),
        local in btree_set(0..8u64, 0..8),
    ) {
        let nonsense: Vec<Symbol> = list
            .into_iter()
            .map(|(sum, count, is_checked)| Symbol {
                sum,
                check: if is_checked { super::check_of(sum) } else { 0 },
                count: i64::from(count % 3),
            })
            .collect();
        let mut decoder = Decoder::new(local.into_iter());
        decoder.add(&nonsense);
        prop_assert!(decoder.difference().0.len() <= nonsense.len());
    }
}

#[test]
fn few_symbols_are_needed() {
    for (differing, symbols_per_element_max) in [(1, 4.0), (10, 2.6), (1000, 1.5)] {
        let (mut total, trials) = (0, 20);
        for trial in 0..trials {
            let seed = trial * 1_000_000 + differing * 10_000;
            let both: BTreeSet<u64> = (0..3000).map(|n| mix(seed + n + 1)).collect();
            let mut remote = both.clone();
            remote.extend((0..differing).map(|n| mix(seed + 500_000 + n)));
            let decoder = reconcile(&remote, &both, 4000);
            assert!(decoder.decoded());
            assert_eq!(decoder.difference().0.len() as u64, differing);
            total += decoder.symbols();
        }
        let each = total as f64 / (trials * differing) as f64;
        assert!(each <= symbols_per_element_max, "{differing}: {each}");
    }
}

#[test]
fn short_symbols_are_short_and_name_the_difference() {
    for (width, bytes_max) in [(Width::Wide, 13), (Width::Narrow, 10)] {
        name_a_difference(width, bytes_max);
    }
}

fn name_a_difference(width: Width, bytes_max: usize) {
    let both = 20_000u64;
    let element = |number| mix(number) & width.mask();
    let encoded = |own: std::ops::Range<u64>| {
        let mut encoder = Encoder::new((0..both).chain(own).map(element));
        encode_symbols_short(&encoder.symbols(600), width, 0, encoder.elements() as u64)
    };
    let [first, second] = [encoded(both..both + 200), encoded(both + 200..both + 350)];
    assert!(first.len() < 600 * bytes_max, "{}", first.len());
    let (first, second) = (decode_symbols(&first).unwrap(), decode_symbols(&second).unwrap());
    let difference: Vec<Symbol> = first.iter().zip(&second).map(|(a, b)| a.less(b)).collect();
    let mut decoder = Decoder::new(std::iter::empty());
    decoder.add(&difference);
    assert!(decoder.decoded());
    let (only_first, only_second) = decoder.difference();
    assert_eq!(sorted(only_first), sorted((both..both + 200).map(element).collect()));
    assert_eq!(sorted(only_second), sorted((both + 200..both + 350).map(element).collect()));
}

#[test]
fn equal_sets_need_one_symbol_and_empty_sets_are_sets() {
    let set: BTreeSet<u64> = (1..100).map(mix).collect();
    assert_eq!(reconcile(&set, &set, 9).symbols(), 1);
    assert_eq!(reconcile(&BTreeSet::new(), &BTreeSet::new(), 9).symbols(), 1);
    assert!(!Decoder::new(std::iter::empty()).decoded());
}

#[test]
fn the_mapping_is_pinned() {
    let symbols = Encoder::new((1..=1000).map(mix)).symbols(5000);
    let folded = symbols.iter().enumerate().fold(0u64, |folded, (place, symbol)| {
        mix(folded ^ symbol.sum ^ symbol.check.rotate_left(7) ^ symbol.count.cast_unsigned())
            .wrapping_add(place as u64)
    });
    assert_eq!(folded, 879_475_858_122_692_746);
}
