//! MD5 (RFC 1321) and SHA-2 (FIPS 180-4) of values in memory, for the functions of those names. It
//! must never guard a secret: nothing here runs in constant time.

/// MD5.
pub(super) fn md5(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] =
        [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let table: [u32; 64] =
        std::array::from_fn(|i| (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32);
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let length = (message.len() as u64).wrapping_mul(8).to_le_bytes();
    for block in padded(message, 64, &length).chunks_exact(64) {
        let words: [u32; 16] = std::array::from_fn(|i| {
            u32::from_le_bytes([block[4 * i], block[4 * i + 1], block[4 * i + 2], block[4 * i + 3]])
        });
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64 {
            let (mixed, word) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), (7 * i) % 16),
            };
            let sum = a.wrapping_add(mixed).wrapping_add(table[i]).wrapping_add(words[word]);
            let turned = sum.rotate_left(SHIFTS[i / 16][i % 4]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(turned));
        }
        for (total, part) in state.iter_mut().zip([a, b, c, d]) {
            *total = total.wrapping_add(part);
        }
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// The message, a set bit, zeros, and its length in bits at the end of a block.
fn padded(message: &[u8], block: usize, length: &[u8]) -> Vec<u8> {
    let mut padded = Vec::with_capacity(message.len() + 2 * block);
    padded.extend_from_slice(message);
    padded.push(0x80);
    let filled = (padded.len() + length.len()).next_multiple_of(block);
    padded.resize(filled - length.len(), 0);
    padded.extend_from_slice(length);
    padded
}

/// The first primes, whose roots are SHA-2's constants.
fn primes() -> impl Iterator<Item = u128> {
    (2u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

/// The first 64 bits of the fraction of a root: the square root, or the cube root.
fn root_fraction(n: u128, degree: u32) -> u64 {
    // The root of n · 2^(64·degree), found bit by bit: it is below 2^68.
    let mut root = 0u128;
    for bit in (0..69).rev() {
        let tried = root | 1 << bit;
        if at_most(tried, n, degree) {
            root = tried;
        }
    }
    root as u64
}

/// Is `root^degree <= n · 2^(64·degree)`? By halves of 64 bits, as the products are too wide.
fn at_most(root: u128, n: u128, degree: u32) -> bool {
    let mut power = vec![1u64];
    for _ in 0..degree {
        power = times(&power, root);
    }
    let mut limit = vec![0u64; degree as usize];
    limit.push(n as u64);
    let width = power.len().max(limit.len());
    power.resize(width, 0);
    limit.resize(width, 0);
    power.iter().rev().le(limit.iter().rev())
}

/// A number in 64-bit digits, least first, times one of up to 70 bits.
fn times(digits: &[u64], by: u128) -> Vec<u64> {
    let (low, high) = (by as u64, (by >> 64) as u64);
    let mut product = vec![0u64; digits.len() + 2];
    for (shift, factor) in [(0, low), (1, high)] {
        let mut carry = 0u128;
        for (i, digit) in digits.iter().enumerate() {
            let at = &mut product[i + shift];
            let sum = u128::from(*digit) * u128::from(factor) + u128::from(*at) + carry;
            *at = sum as u64;
            carry = sum >> 64;
        }
        let mut at = digits.len() + shift;
        while carry > 0 && at < product.len() {
            let sum = u128::from(product[at]) + carry;
            product[at] = sum as u64;
            carry = sum >> 64;
            at += 1;
        }
    }
    product
}

/// SHA-224, -256, -384 or -512 (0 is 256); `None` for other lengths.
pub(super) fn sha2(message: &[u8], bits: i64) -> Option<Vec<u8>> {
    let first = |skip: usize| -> [u64; 8] {
        let mut primes = primes().skip(skip);
        std::array::from_fn(|_| root_fraction(primes.next().unwrap_or(2), 2))
    };
    let digest = match bits {
        0 | 256 => sha256(message, first(0).map(|w| (w >> 32) as u32)),
        // The second half of SHA-384's.
        224 => sha256(message, first(8).map(|w| w as u32)),
        384 => sha512(message, first(8)),
        512 => sha512(message, first(0)),
        _ => return None,
    };
    let length = if bits == 0 { 256 } else { bits };
    digest.get(..length as usize / 8).map(<[u8]>::to_vec)
}

fn constants() -> &'static [u64; 80] {
    static CONSTANTS: std::sync::LazyLock<[u64; 80]> = std::sync::LazyLock::new(|| {
        let mut primes = primes();
        std::array::from_fn(|_| root_fraction(primes.next().unwrap_or(2), 3))
    });
    &CONSTANTS
}

macro_rules! sha2_of {
    ($name:ident, $word:ty, $rounds:literal, $constant:expr, $length:expr,
     $small0:expr, $small1:expr, $big0:expr, $big1:expr) => {
        fn $name(message: &[u8], mut state: [$word; 8]) -> Vec<u8> {
            const WORD: usize = size_of::<$word>();
            let constant: fn(u64) -> $word = $constant;
            let (small0, small1): (fn($word) -> $word, fn($word) -> $word) = ($small0, $small1);
            let (big0, big1): (fn($word) -> $word, fn($word) -> $word) = ($big0, $big1);
            let length: Vec<u8> = $length(message.len());
            for block in padded(message, 16 * WORD, &length).chunks_exact(16 * WORD) {
                let mut w = [0 as $word; $rounds];
                for (word, bytes) in w.iter_mut().zip(block.chunks_exact(WORD)) {
                    *word = bytes.iter().fold(0, |word, byte| word << 8 | <$word>::from(*byte));
                }
                for i in 16..$rounds {
                    w[i] = w[i - 16]
                        .wrapping_add(small0(w[i - 15]))
                        .wrapping_add(w[i - 7])
                        .wrapping_add(small1(w[i - 2]));
                }
                let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
                for (word, k) in w.iter().zip(constants()) {
                    let choice = (e & f) ^ (!e & g);
                    let one = h.wrapping_add(big1(e)).wrapping_add(choice);
                    let one = one.wrapping_add(constant(*k)).wrapping_add(*word);
                    let two = big0(a).wrapping_add((a & b) ^ (a & c) ^ (b & c));
                    (h, g, f, e) = (g, f, e, d.wrapping_add(one));
                    (d, c, b, a) = (c, b, a, one.wrapping_add(two));
                }
                for (total, part) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                    *total = total.wrapping_add(part);
                }
            }
            state.iter().flat_map(|word| word.to_be_bytes()).collect()
        }
    };
}

sha2_of!(
    sha256,
    u32,
    64,
    |k| (k >> 32) as u32,
    |bytes: usize| (bytes as u64).wrapping_mul(8).to_be_bytes().to_vec(),
    |x| x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3),
    |x| x.rotate_right(17) ^ x.rotate_right(19) ^ (x >> 10),
    |x| x.rotate_right(2) ^ x.rotate_right(13) ^ x.rotate_right(22),
    |x| x.rotate_right(6) ^ x.rotate_right(11) ^ x.rotate_right(25)
);

sha2_of!(
    sha512,
    u64,
    80,
    |k| k,
    |bytes: usize| (bytes as u128).wrapping_mul(8).to_be_bytes().to_vec(),
    |x| x.rotate_right(1) ^ x.rotate_right(8) ^ (x >> 7),
    |x| x.rotate_right(19) ^ x.rotate_right(61) ^ (x >> 6),
    |x| x.rotate_right(28) ^ x.rotate_right(34) ^ x.rotate_right(39),
    |x| x.rotate_right(14) ^ x.rotate_right(18) ^ x.rotate_right(41)
);

/// SHA-256 of a text in hexadecimal.
pub(crate) fn sha256_hex(text: &str) -> String {
    let digest = sha2(text.as_bytes(), 256).unwrap_or_default();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        assert_eq!(hex(&md5(b"")), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hex(&md5(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hex(&md5(&b"1234567890".repeat(8))), "57edf4a22be3c955ac49da2e2107b67a");
        let sha2 = |bits| hex(&sha2(b"abc", bits).expect("a length there is"));
        assert_eq!(sha2(224), "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7");
        assert_eq!(sha2(0), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(sha2(384).starts_with("cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"));
        assert!(sha2(512).starts_with("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"));
        assert_eq!(super::sha2(b"", 5), None);
    }
}
