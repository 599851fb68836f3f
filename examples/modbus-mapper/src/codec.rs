//! Registers and bits to values and back. The most significant register and byte come first unless they are swapped.

use mapper::Kind;

/// How raw numbers become values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scaling {
    /// value = raw number × scale.
    pub(crate) scale: f64,
    /// The two bytes of each register change places.
    pub(crate) swap_bytes: bool,
    /// The last register comes first.
    pub(crate) swap_registers: bool,
}

/// The value of registers. Why not, otherwise.
pub(crate) fn decode(kind: Kind, words: &[u16], scaling: Scaling) -> Result<String, String> {
    let words = scaling.swapped(words);
    let raw = || words.iter().fold(0_u64, |all, word| (all << 16) | u64::from(*word));
    match (kind, words.len()) {
        (Kind::Boolean, _) => Ok(words.iter().any(|word| *word != 0).to_string()),
        (Kind::Text, _) => {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
        }
        (Kind::Bytes, _) => Ok(words.iter().map(|word| format!("{word:04x}")).collect()),
        (Kind::Float, 2) => {
            let single = f32::from_bits(u32::try_from(raw()).unwrap_or_default());
            // By its text: 21.7 is to stay 21.7.
            let number = single.to_string().parse().unwrap_or_else(|_| f64::from(single));
            Ok(rounded(number * scaling.scale))
        }
        (Kind::Float, 4) => Ok(rounded(f64::from_bits(raw()) * scaling.scale)),
        (Kind::Float, 1) | (Kind::Integer, 1 | 2 | 4) => {
            let number = signed(raw(), words.len());
            if scaling.scale == 1.0 {
                return Ok(number.to_string());
            }
            let number: f64 = number.to_string().parse().unwrap_or_default();
            let value = number * scaling.scale;
            Ok(if kind == Kind::Integer {
                format!("{value:.0}")
            } else {
                rounded(value)
            })
        }
        (Kind::Float | Kind::Integer, count) => Err(format!("a number has 1, 2 or 4 registers, not {count}")),
    }
}

/// The registers of a value.
pub(crate) fn encode(kind: Kind, value: &str, count: u16, scaling: Scaling) -> Result<Vec<u16>, String> {
    let count = usize::from(count);
    let words = match (kind, count) {
        (Kind::Boolean, _) => words(u64::from(truth(value)?), count),
        (Kind::Text, _) => {
            let mut bytes = value.as_bytes().to_vec();
            if bytes.len() > count * 2 {
                return Err(format!("{} bytes do not fit into {count} registers", bytes.len()));
            }
            bytes.resize(count * 2, 0);
            let pairs = bytes
                .chunks_exact(2)
                .map(|pair| pair.iter().fold(0, |all, byte| (all << 8) | u16::from(*byte)));
            pairs.collect()
        }
        (Kind::Bytes, _) => {
            let digits = value.get(..).filter(|text| text.is_ascii() && text.len() == count * 4);
            let digits = digits.ok_or_else(|| format!("{count} registers have {} hexadecimal digits", count * 4))?;
            let word = |at: usize| {
                digits
                    .get(at * 4..at * 4 + 4)
                    .and_then(|text| u16::from_str_radix(text, 16).ok())
            };
            let all: Option<_> = (0..count).map(word).collect();
            all.ok_or_else(|| format!("{value:?} is not hexadecimal"))?
        }
        (Kind::Float, 2) => {
            let single: f32 = unscaled(value, scaling)?
                .to_string()
                .parse()
                .map_err(|_| no_number(value))?;
            words(u64::from(single.to_bits()), 2)
        }
        (Kind::Float, 4) => words(unscaled(value, scaling)?.to_bits(), 4),
        (Kind::Float, 1) | (Kind::Integer, 1 | 2 | 4) => {
            let number = match value.parse::<i64>() {
                Ok(number) if scaling.scale == 1.0 => number,
                _ => format!("{:.0}", unscaled(value, scaling)?)
                    .parse()
                    .map_err(|_| no_number(value))?,
            };
            let most = i64::MAX >> (64 - 16 * count);
            // Devices read 16 bits with a sign or without: both are let through.
            if count < 4 && !(-most - 1..=most * 2 + 1).contains(&number) {
                return Err(format!("{value} does not fit into {count} registers"));
            }
            words(number.cast_unsigned(), count)
        }
        (Kind::Float | Kind::Integer, count) => return Err(format!("a number has 1, 2 or 4 registers, not {count}")),
    };
    Ok(scaling.swapped(&words))
}

/// The value of bits: one is true or false or 1 or 0, several are a number with the first as its least.
pub(crate) fn decode_bits(kind: Kind, bits: &[bool]) -> Result<String, String> {
    match (kind, bits) {
        (Kind::Integer | Kind::Float, bits) if bits.len() <= 63 => {
            let number = bits.iter().rev().fold(0_u64, |all, bit| (all << 1) | u64::from(*bit));
            Ok(number.to_string())
        }
        (Kind::Integer | Kind::Float, _) => Err("a number has 63 bits at most".to_owned()),
        (Kind::Boolean, bits) => Ok(bits.iter().any(|bit| *bit).to_string()),
        (Kind::Text | Kind::Bytes, bits) => Ok(bits.iter().map(|bit| if *bit { '1' } else { '0' }).collect()),
    }
}

/// The bits of a value.
pub(crate) fn encode_bits(kind: Kind, value: &str, count: u16) -> Result<Vec<bool>, String> {
    match kind {
        Kind::Boolean => Ok(vec![truth(value)?; usize::from(count)]),
        Kind::Integer | Kind::Float if count <= 63 => {
            let number: u64 = value.parse().map_err(|_| no_number(value))?;
            if number >> count != 0 {
                return Err(format!("{value} does not fit into {count} bits"));
            }
            Ok((0..count).map(|bit| number >> bit & 1 == 1).collect())
        }
        Kind::Integer | Kind::Float => Err("a number has 63 bits at most".to_owned()),
        Kind::Text | Kind::Bytes => {
            let bits = value.chars().map(|bit| match bit {
                '0' => Some(false),
                '1' => Some(true),
                _ => None,
            });
            let bits: Option<Vec<bool>> = bits.collect();
            bits.filter(|bits| bits.len() == usize::from(count))
                .or_else(|| truth(value).ok().filter(|_| count == 1).map(|on| vec![on]))
                .ok_or_else(|| format!("{value:?} is not {count} times 0 or 1"))
        }
    }
}

impl Scaling {
    fn swapped(self, words: &[u16]) -> Vec<u16> {
        let mut words: Vec<u16> = words.to_vec();
        if self.swap_bytes {
            words.iter_mut().for_each(|word| *word = word.swap_bytes());
        }
        if self.swap_registers {
            words.reverse();
        }
        words
    }
}

/// With the sign of so many registers.
const fn signed(raw: u64, registers: usize) -> i64 {
    let unused = 64 - 16 * registers;
    (raw << unused).cast_signed() >> unused
}

fn words(raw: u64, count: usize) -> Vec<u16> {
    let [a, b, c, d, e, f, g, h] = raw.to_be_bytes();
    let all = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_be_bytes);
    let wide = std::iter::repeat_n(0, count.saturating_sub(4));
    wide.chain(all.into_iter().skip(4_usize.saturating_sub(count)))
        .collect()
}

fn unscaled(value: &str, scaling: Scaling) -> Result<f64, String> {
    let number: f64 = value.parse().map_err(|_| no_number(value))?;
    Ok(number / scaling.scale)
}

/// Six places: 217 × 0.1 is 21.7, not 21.700000000000003.
fn rounded(number: f64) -> String {
    ((number * 1e6).round() / 1e6).to_string()
}

fn truth(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

fn no_number(value: &str) -> String {
    format!("{value:?} is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Scaling = Scaling {
        scale: 1.0,
        swap_bytes: false,
        swap_registers: false,
    };
    const TENTH: Scaling = Scaling { scale: 0.1, ..PLAIN };
    const SWAPPED: Scaling = Scaling {
        swap_bytes: true,
        swap_registers: true,
        ..PLAIN
    };

    /// A kind, registers, how, and the value that they are; both ways.
    #[test]
    fn values_and_registers_are_each_others() {
        let cases: &[(Kind, &[u16], Scaling, &str)] = &[
            (Kind::Integer, &[21], PLAIN, "21"),
            (Kind::Integer, &[0xffff], PLAIN, "-1"),
            (Kind::Integer, &[0x0001, 0x0002], PLAIN, "65538"),
            (Kind::Integer, &[0x0200, 0x0100], SWAPPED, "65538"),
            (Kind::Integer, &[0xffff, 0xffff, 0xffff, 0xfffe], PLAIN, "-2"),
            (Kind::Float, &[217], TENTH, "21.7"),
            (Kind::Float, &[0x41ad, 0x999a], PLAIN, "21.7"),
            (Kind::Float, &[0x4035, 0xb333, 0x3333, 0x3333], PLAIN, "21.7"),
            (Kind::Boolean, &[1], PLAIN, "true"),
            (Kind::Text, &[0x6162, 0x6300], PLAIN, "abc"),
            (Kind::Bytes, &[0x00ff, 0x1234], PLAIN, "00ff1234"),
        ];
        for (kind, words, scaling, value) in cases {
            let count = u16::try_from(words.len()).expect("few");
            assert_eq!(
                decode(*kind, words, *scaling).as_deref(),
                Ok(*value),
                "{kind:?} {words:x?}"
            );
            assert_eq!(
                encode(*kind, value, count, *scaling).as_deref(),
                Ok(*words),
                "{kind:?} {value}"
            );
        }
        assert_eq!(decode(Kind::Integer, &[215], TENTH).as_deref(), Ok("22"));
    }

    #[test]
    fn bits_are_truths_and_numbers() {
        assert_eq!(decode_bits(Kind::Boolean, &[true]).as_deref(), Ok("true"));
        assert_eq!(decode_bits(Kind::Integer, &[true, false, true]).as_deref(), Ok("5"));
        assert_eq!(decode_bits(Kind::Text, &[true, false]).as_deref(), Ok("10"));
        assert_eq!(encode_bits(Kind::Boolean, "off", 1), Ok(vec![false]));
        assert_eq!(encode_bits(Kind::Text, "ON", 1), Ok(vec![true]));
        assert_eq!(encode_bits(Kind::Integer, "5", 3), Ok(vec![true, false, true]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(encode(Kind::Integer, "70000", 1, PLAIN).is_err());
        assert!(encode(Kind::Integer, "-40000", 1, PLAIN).is_err());
        assert_eq!(encode(Kind::Integer, "40000", 1, PLAIN), Ok(vec![40_000]));
        assert!(encode(Kind::Integer, "x", 1, PLAIN).is_err());
        assert!(encode(Kind::Text, "abc", 1, PLAIN).is_err());
        assert!(encode(Kind::Bytes, "12", 1, PLAIN).is_err());
        assert!(encode(Kind::Boolean, "2", 1, PLAIN).is_err());
        assert!(encode_bits(Kind::Integer, "8", 3).is_err());
        assert!(decode(Kind::Float, &[1, 2, 3], PLAIN).is_err());
    }
}
