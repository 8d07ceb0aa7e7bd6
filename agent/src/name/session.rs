//! The term of a leader.

use std::{fmt, str::FromStr};

use super::NameError;

/// The number of a leader's term, a UUID: another one means another term, even at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(u128);

impl Session {
    /// From the number.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }
}

impl FromStr for Session {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let groups: Vec<&str> = text.split('-').collect();
        let hexadecimal = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            || !groups.iter().all(hexadecimal)
        {
            return Err(NameError::Session);
        }
        u128::from_str_radix(&groups.concat(), 16)
            .map(Self)
            .map_err(|_| NameError::Session)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hexadecimal = format!("{:032x}", self.0);
        let mut from = 0;
        for to in [8, 12, 16, 20, 32] {
            if from > 0 {
                f.write_str("-")?;
            }
            f.write_str(&hexadecimal[from..to])?;
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_uuid() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(text.parse::<Session>().unwrap().to_string(), text);
        for text in [
            "",
            "00112233445566778899aabbccddeeff",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(text.parse::<Session>(), Err(NameError::Session));
        }
    }
}
