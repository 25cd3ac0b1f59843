//! The input, read as a script: every sequence of bytes is valid.

use std::sync::OnceLock;

/// Sizes at which the behaviour changes: the header, powers of two, the library's buffers, with and without a
/// header.
const SIZES: [usize; 32] = [
    250, 251, 255, 256, 507, 512, 1019, 1024, 4091, 4095, 4096, 4097, 8187, 8192, 16_374, 16_378, 16_379,
    16_380, 16_383, 16_384, 16_389, 32_768, 65_530, 65_531, 65_535, 65_536, 65_541, 70_000, 100_000, 131_072,
    150_000, 200_000,
];

/// The rest of the input.
#[derive(Clone, Copy)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The next byte; `None` at the end.
    pub fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Whether the next byte is odd.
    pub fn coin(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A size: small ones are a byte, others are one of [`SIZES`] or any of two bytes.
    pub fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..192 => usize::from(small),
            one @ 192..224 => SIZES[usize::from(one) - 192],
            _ => usize::from(u16::from_le_bytes([self.byte(), self.byte()])),
        }
    }

    /// As many of the next bytes as there are, up to `count`.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Appends bytes whose values show their position: no two positions within a few hundred thousand have the
/// same eight bytes.
pub fn append_pattern(to: &mut Vec<u8>, size: usize, seed: usize) {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    // The period is a prime number: no power of two repeats the same bytes.
    let pattern = PATTERN.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..262_139).map(|_| byte()).collect()
    });
    let (mut from, mut left) = (seed.wrapping_mul(7919) % pattern.len(), size);
    while left > 0 {
        let count = left.min(pattern.len() - from);
        to.extend_from_slice(&pattern[from..from + count]);
        (from, left) = (0, left - count);
    }
}

/// Whether each step is to be printed.
pub fn is_traced() -> bool {
    static TRACED: OnceLock<bool> = OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("FUZZ_TRACE").is_some())
}
