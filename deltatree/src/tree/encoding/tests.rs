//! Every encoding there and back, the choice between them, and wrong bytes.

use super::*;
use crate::testing::model::Numbers;

fn bytes(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    values.into_iter().flat_map(i64::to_le_bytes).collect()
}

const I64: Shape = Shape::Values(8, true);
const SHAPES: [Shape; 8] = [
    Shape::Bits,
    Shape::Offsets,
    Shape::Values(4, true),
    Shape::Values(8, true),
    Shape::Values(8, false),
    Shape::Values(16, true),
    Shape::Values(16, false),
    Shape::Text,
];

/// Without what is behind the last whole value.
fn whole(shape: Shape, raw: &[u8]) -> &[u8] {
    let width = match shape {
        Shape::Values(width, _) => width,
        Shape::Offsets => 4,
        Shape::Bits | Shape::Text => 1,
    };
    &raw[..raw.len() / width * width]
}

/// Of whole values, the form without a look at what it saves.
fn forms(shape: Shape, raw: &[u8]) -> Vec<Vec<u8>> {
    let raw = whole(shape, raw);
    match shape {
        Shape::Bits => numbers::<u8>(raw, false).into_iter().collect(),
        Shape::Offsets | Shape::Values(4, false) => {
            numbers::<u32>(raw, false).into_iter().collect()
        }
        Shape::Values(4, _) => numbers::<u32>(raw, true).into_iter().collect(),
        Shape::Values(8, signed) => numbers::<u64>(raw, signed).into_iter().collect(),
        Shape::Values(_, signed) => numbers::<u128>(raw, signed).into_iter().collect(),
        Shape::Text => vec![text(raw)],
    }
}

fn there_and_back(shape: Shape, raw: &[u8]) -> Option<u8> {
    let raw = whole(shape, raw);
    let mut seen = None;
    for mut form in forms(shape, raw) {
        seen = Some(form[0]);
        let stored = form.len();
        form.extend_from_slice(&[0xa5; 64]); // what follows is of no concern
        let (buffer, used) = decode(shape, &form, raw.len()).expect("it was encoded");
        assert_eq!((&*buffer, used), (raw, stored), "{shape:?}");
        assert!((buffer.as_ptr() as usize).is_multiple_of(ALIGN), "{shape:?}");
    }
    seen
}

#[test]
fn every_number_of_bits_comes_back() {
    let mut numbers = Numbers(1);
    let mut compared = 0;
    for bits in 0..=64u32 {
        for rows in [1usize, 2, 3, 63, 64, 65, 1000] {
            let mask = if bits == 0 { 0 } else { u64::MAX >> (64 - bits) };
            let base = numbers.below(u64::MAX);
            let raw: Vec<u8> = (0..rows)
                .flat_map(|_| base.wrapping_add(numbers.below(u64::MAX) & mask).to_le_bytes())
                .collect();
            for shape in SHAPES.into_iter().filter(|shape| *shape != Shape::Text) {
                compared += usize::from(there_and_back(shape, &raw).is_some());
            }
        }
    }
    // all but wide numbers that need more than 64 bits
    assert!(compared > 65 * 7 * 5, "{compared} forms came back");
}

#[test]
fn extremes_come_back() {
    let edges = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    for a in edges {
        for b in edges {
            for raw in [bytes([a, b]), bytes([a, b, a, b, a]), bytes([a; 100])] {
                for shape in SHAPES {
                    there_and_back(shape, &raw);
                }
            }
        }
    }
    let floats = [f64::NAN, -f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
    let raw: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
    there_and_back(Shape::Values(8, false), &raw);
    let wide = [i128::MIN, 0, i128::MAX];
    let raw: Vec<u8> = wide.iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(there_and_back(Shape::Values(16, true), &raw), None, "over 64 bits stay raw");
    let raw: Vec<u8> = (0..9).flat_map(|i| (i128::MIN + i * i).to_le_bytes()).collect();
    assert!(there_and_back(Shape::Values(16, true), &raw).is_some());
}

#[test]
fn the_smallest_form_is_chosen_and_only_if_it_saves_enough() {
    let kind = |shape, raw: &[u8]| encode(shape, raw).map(|encoded| (encoded[0], encoded[1]));
    assert_eq!(kind(I64, &bytes([7; 8192])), Some((FRAME, 0)), "one value");
    assert_eq!(kind(I64, &bytes(0..8192)), Some((STEPS, 0)), "a series");
    assert_eq!(kind(I64, &bytes((0..8192).map(|i| -(i * i % 50)))), Some((FRAME, 6)));
    let clock = bytes((0..8192).map(|i| (i << 40) + i * i % 50));
    assert_eq!(kind(I64, &clock).map(|(encoding, _)| encoding), Some(STEPS), "nearly a series");
    let mut numbers = Numbers(3);
    let mut below = |end: u64| bytes((0..8192).map(|_| numbers.below(end) as i64));
    assert_eq!(kind(I64, &below(u64::MAX)), None);
    // 8192 rows: 65,536 bytes raw, of which 16,384 may be left, heads included
    assert_eq!(kind(I64, &below(1 << 17)), None, "17 of 64 bits");
    assert_eq!(kind(I64, &below(1 << 15)), Some((FRAME, 15)), "15 of 64 bits");
    assert_eq!(kind(Shape::Text, "some words ".repeat(100).as_bytes()), Some((LZ4, 0)));
    assert_eq!(kind(Shape::Text, "some words ".repeat(10_000).as_bytes()), Some((LZ4, 0)));
    assert_eq!(kind(Shape::Text, &below(u64::MAX)), None);
    let late = [below(u64::MAX), bytes((0..50_000).map(|_| 7))].concat();
    assert_eq!(kind(Shape::Text, &late), None, "the sample decides");
    assert_eq!(kind(Shape::Bits, &[0; 1024]), Some((FRAME, 0)));
    assert_eq!(kind(Shape::Text, b""), None);
    assert_eq!(kind(I64, b""), None);
}

#[test]
fn the_threshold_counts_padded_bytes() {
    assert!(saves(256, 64, 75) && !saves(256, 65, 75));
    assert!(saves(128, 64, 50) && !saves(128, 64, 51) && !saves(64, 8, 0));
    assert!(saves(65_536, 16_384, 75) && !saves(65_536, 16_385, 75));
}

#[test]
fn wrong_bytes_are_an_error_or_other_values_and_never_a_panic() {
    let mut numbers = Numbers(9);
    let ints = bytes((0..300).map(|i| i * i % 1000));
    let words = "to and fro ".repeat(40).into_bytes();
    for shape in SHAPES {
        let raw = if shape == Shape::Text { &words } else { &ints };
        for form in forms(shape, raw) {
            for byte in 0..form.len() {
                for bit in 0..8 {
                    let mut wrong = form.clone();
                    wrong[byte] ^= 1 << bit;
                    if let Ok((buffer, used)) = decode(shape, &wrong, raw.len()) {
                        assert!(buffer.len() == raw.len() && used <= wrong.len());
                    }
                }
                assert!(decode(shape, &form[..byte], raw.len()).is_err(), "cut at {byte}");
            }
            // shorter by less than a word is as good: rows are counted elsewhere
            for len in [0, raw.len() / 2, raw.len() * 2, usize::MAX] {
                assert!(decode(shape, &form, len).is_err(), "{shape:?}, {len} bytes");
            }
        }
        for _ in 0..20_000 {
            let mut noise: Vec<u8> = (0..40).map(|_| numbers.below(256) as u8).collect();
            noise[0] = numbers.below(4) as u8;
            noise[4..8].copy_from_slice(&(numbers.below(40) as u32).to_le_bytes());
            let _ = decode(shape, &noise, numbers.below(1000) as usize);
        }
    }
}

#[test]
fn a_few_bytes_never_ask_for_much_memory() {
    let one = numbers::<u64>(&bytes([1; 10]), true).expect("one value");
    assert!(decode(I64, &one, (ROWS_MAX + 1) * 8).is_ok());
    assert!(decode(I64, &one, 1 << 40).is_err());
    assert!(decode(Shape::Text, &text(b"a few words"), 1 << 40).is_err());
}
