//! The file header: the first 128 bytes.

use millstream_core::{Error, ErrorKind, Result};

/// The header is exactly this long.
pub const HEADER_BYTES: usize = 128;

/// A beacon interval that suits most files: a beacon costs nothing at one in a million bytes, and a seek scans half of it.
pub const BEACON_INTERVAL_DEFAULT: u32 = 1024 * 1024;

/// Readers accept beacon intervals from here: the first beacon must not lie inside the header.
pub const BEACON_INTERVAL_MIN: u32 = HEADER_BYTES as u32;

/// Writers take positive multiples of this as beacon interval.
pub const BEACON_INTERVAL_STEP: u32 = 1024;

/// What is left for the file name: the header without mark, version, length, time, interval and line end.
pub const FILE_NAME_BYTES_MAX: usize = HEADER_BYTES - 3 - 1 - 8 - 4 - 1;

const MARK: [u8; 2] = [0x53, 0x73];
const VERSION: u8 = 1;

/// What the first 128 bytes of a file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    file_name: String,
    created_at_ms: u64,
    beacon_interval: u32,
}

impl Header {
    /// The header of a new file; `beacon_interval` in bytes. The name is cut to [`FILE_NAME_BYTES_MAX`].
    ///
    /// # Errors
    /// `Option` if `beacon_interval` is not a positive multiple of [`BEACON_INTERVAL_STEP`].
    pub fn new(file_name: &str, created_at_ms: u64, beacon_interval: u32) -> Result<Self> {
        if beacon_interval == 0 || !beacon_interval.is_multiple_of(BEACON_INTERVAL_STEP) {
            return Err(Error::new(ErrorKind::Option, format!("cannot use {beacon_interval} as beacon interval"))
                .hint(format!("use a positive multiple of {BEACON_INTERVAL_STEP} bytes; the default is 1 MiB")));
        }
        Self::with_any_interval(file_name, created_at_ms, beacon_interval)
    }

    /// As [`Header::new`], but with any interval that readers accept: for tests and for copies of foreign files.
    ///
    /// # Errors
    /// `Option` if `beacon_interval` is below [`BEACON_INTERVAL_MIN`].
    pub fn with_any_interval(file_name: &str, created_at_ms: u64, beacon_interval: u32) -> Result<Self> {
        if beacon_interval < BEACON_INTERVAL_MIN {
            return Err(Error::new(ErrorKind::Option, format!("cannot use {beacon_interval} as beacon interval"))
                .hint(format!("the smallest that readers accept is {BEACON_INTERVAL_MIN} bytes")));
        }
        let file_name = file_name[..file_name.floor_char_boundary(FILE_NAME_BYTES_MAX)].to_owned();
        Ok(Self { file_name, created_at_ms, beacon_interval })
    }

    /// The name the file had when it was made, cut to fit.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// When the file was made, in milliseconds since the epoch.
    pub fn created_at_ms(&self) -> u64 {
        self.created_at_ms
    }

    /// Bytes between beacons; at least [`BEACON_INTERVAL_MIN`].
    pub fn beacon_interval(&self) -> u32 {
        self.beacon_interval
    }

    /// The 128 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MARK);
        // The length fits: the constructors cut the name to 111 bytes.
        bytes.extend_from_slice(&[VERSION, self.file_name.len() as u8]);
        bytes.extend_from_slice(self.file_name.as_bytes());
        bytes.extend_from_slice(&self.created_at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.beacon_interval.to_be_bytes());
        let mut header = [0; HEADER_BYTES];
        header[HEADER_BYTES - 1] = super::LINE_END;
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = from;
        }
        header
    }

    /// Reads a header from the start of `bytes`. Padding is not looked at; `verify` does that.
    ///
    /// # Errors
    /// `Corrupt` if there are fewer than 128 bytes, the mark is missing, or a field cannot be; `Version` if the file
    /// is of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            let message = format!("cannot read the file header: it ends at offset {} of {HEADER_BYTES}", bytes.len());
            return Err(Error::new(ErrorKind::Corrupt, message).hint("a file that was never begun can be deleted"));
        };
        let corrupt = |offset: usize, what: String| {
            Error::new(ErrorKind::Corrupt, format!("cannot read the file header: {what} at offset {offset}"))
        };
        let [mark0, mark1, version, name_bytes, rest @ ..] = bytes;
        if [*mark0, *mark1] != MARK {
            return Err(corrupt(0, "no `Ss` mark".into()).hint("this is not a .ss stream file"));
        }
        if *version != VERSION {
            let message = format!("cannot read a .ss file of version {version}: only version {VERSION} is known");
            return Err(Error::new(ErrorKind::Version, message));
        }
        let fields = rest.split_at_checked(usize::from(*name_bytes)).and_then(|(name, rest)| {
            let (created_at_ms, rest) = rest.split_first_chunk::<8>()?;
            let (interval, rest) = rest.split_first_chunk::<4>()?;
            // One byte must be left for the line end.
            (!rest.is_empty()).then_some((name, u64::from_be_bytes(*created_at_ms), u32::from_be_bytes(*interval)))
        });
        let Some((name, created_at_ms, beacon_interval)) = fields else {
            return Err(corrupt(3, format!("a file name of {name_bytes} bytes, more than {FILE_NAME_BYTES_MAX},")));
        };
        if beacon_interval < BEACON_INTERVAL_MIN {
            let offset = 4 + usize::from(*name_bytes) + 8;
            return Err(corrupt(offset, format!("a beacon interval of {beacon_interval} bytes")));
        }
        // The name is a remark, so a foreign one that is not UTF-8 does not make a file unreadable.
        Self::with_any_interval(&String::from_utf8_lossy(name), created_at_ms, beacon_interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let header = Header::new("clicks.ss", 1_694_767_177_436, 4096).unwrap();
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        assert_eq!(header.encode()[127], 0x0D);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let header = Header::new(&"é".repeat(200), 1, 1024).unwrap();
        assert_eq!(header.file_name(), "é".repeat(55), "111 bytes would cut the 56th in two");
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        assert_eq!(Header::new(&"x".repeat(500), 1, 1024).unwrap().file_name().len(), 111);
    }

    #[test]
    fn writers_are_strict_about_intervals_and_readers_are_not() {
        for interval in [0, 1, 1023, 1025] {
            assert_eq!(Header::new("a", 0, interval).unwrap_err().kind(), ErrorKind::Option);
        }
        let header = Header::with_any_interval("a", 0, 128).unwrap();
        assert_eq!(Header::decode(&header.encode()).unwrap().beacon_interval(), 128);
        assert!(Header::with_any_interval("a", 0, 127).is_err());
    }

    #[test]
    fn damage_is_named() {
        let good = Header::new("a.ss", 7, 1024).unwrap().encode();
        assert!(Header::decode(&good[..127]).unwrap_err().message().contains("offset 127"));
        let changed = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            Header::decode(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'X').kind(), ErrorKind::Corrupt);
        assert_eq!(changed(2, 2).kind(), ErrorKind::Version);
        assert_eq!(changed(3, 112).kind(), ErrorKind::Corrupt);
        assert_eq!(changed(18, 0).kind(), ErrorKind::Corrupt);
        for byte in 0..=255 {
            let _ = Header::decode(&[&good[..3], &[byte], &good[4..]].concat());
        }
    }
}
