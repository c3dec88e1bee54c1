//! How an archive is compressed in a cache, and its decompression in bounded memory. All decoders are written in Rust: what
//! they read comes from strangers.

use std::io::{self, BufRead, BufReader, Read};

use bzip2::bufread::BzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// The most memory that an archive may ask for to be decompressed; `xz -9` needs 65 MiB, `zstd --ultra --long` 128 MiB.
const MEMORY_MOST: u32 = 160 << 20;
/// Members without content are accepted up to this number: a decoder for each takes its time.
const MOST_EMPTY: usize = 64;
/// How much compressed data is handed to a decoder at once.
const BUFFER: usize = 128 << 10;

/// A way of compressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    /// What is accepted, in words.
    pub(crate) const ACCEPTED: &'static str = "one of none, xz, zstd and bzip2";

    /// The one that a cache calls `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "xz" => Some(Self::Xz),
            "zstd" => Some(Self::Zstd),
            "bzip2" => Some(Self::Bzip2),
            _ => None,
        }
    }

    /// What `source` holds, decompressed. Every member of it: an archive may have been compressed in parts.
    pub(crate) fn reader<'source>(self, source: impl Read + 'source) -> io::Result<Box<dyn Read + 'source>> {
        let source = BufReader::with_capacity(BUFFER, source);
        Ok(match self {
            Self::None => Box::new(source),
            Self::Xz => Box::new(XzReader::new_mem_limit(source, true, MEMORY_MOST >> 10)),
            Self::Zstd => Box::new(Members::<_, ZstdMember<_>>::new(source)),
            Self::Bzip2 => Box::new(Members::<_, BzDecoder<_>>::new(source)),
        })
    }
}

/// What decompresses one member.
trait MemberDecoder<R>: Read + Sized {
    /// For the member that `source` is at.
    fn begin(source: BufReader<R>) -> io::Result<Self>;
    /// What follows the member, which was read to its end.
    fn into_source(self) -> BufReader<R>;
}

type ZstdMember<R> = StreamingDecoder<BufReader<R>, ruzstd::decoding::FrameDecoder>;

impl<R: Read> MemberDecoder<R> for ZstdMember<R> {
    fn begin(source: BufReader<R>) -> io::Result<Self> {
        Self::new_with_max_window_size(source, u64::from(MEMORY_MOST)).map_err(io::Error::other)
    }

    fn into_source(self) -> BufReader<R> {
        self.into_inner()
    }
}

impl<R: Read> MemberDecoder<R> for BzDecoder<BufReader<R>> {
    fn begin(source: BufReader<R>) -> io::Result<Self> {
        Ok(Self::new(source))
    }

    fn into_source(self) -> BufReader<R> {
        self.into_inner()
    }
}

/// The members of a file ("frames", RFC 8878 §3, of a Zstandard one), one after another.
struct Members<R, D> {
    member: Member<R, D>,
    /// How many there were without content.
    empty: usize,
    /// Whether the present one has content.
    has_content: bool,
}

enum Member<R, D> {
    Inside(Box<D>),
    Between(BufReader<R>),
    /// While one is exchanged for the other, and after an error.
    Nothing,
}

impl<R, D> Members<R, D> {
    fn new(source: BufReader<R>) -> Self {
        Self { member: Member::Between(source), empty: 0, has_content: false }
    }
}

impl<R: Read, D: MemberDecoder<R>> Read for Members<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.member, Member::Nothing) {
                Member::Nothing => return Ok(0),
                Member::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    self.has_content = false;
                    self.member = Member::Inside(Box::new(D::begin(source)?));
                }
                Member::Inside(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        self.has_content |= read > 0;
                        self.member = Member::Inside(decoder);
                        return Ok(read);
                    }
                    self.empty += usize::from(!self.has_content);
                    if self.empty > MOST_EMPTY {
                        let problem = format!("more than {MOST_EMPTY} parts of it have no content");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                    }
                    self.member = Member::Between(decoder.into_source());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::allowance::Allowance;

    /// What the program `name` makes of `data`; these are of every Debian system.
    fn compressed(name: &str, data: &[u8]) -> Vec<u8> {
        let mut child = Command::new(name)
            .arg("--stdout")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut input = child.stdin.take().expect("piped");
        let data = data.to_vec();
        let writing = std::thread::spawn(move || input.write_all(&data));
        let output = child.wait_with_output().expect("ends");
        writing.join().expect("no panic").expect("written");
        output.stdout
    }

    fn decompressed(compression: Compression, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        compression.reader(data)?.read_to_end(&mut all)?;
        Ok(all)
    }

    fn sample() -> Vec<u8> {
        (0..300_000_u32).flat_map(|index| (index / 7).wrapping_mul(2_654_435_769).to_le_bytes()).collect()
    }

    #[test]
    fn what_programs_compress_is_read_also_in_parts() {
        let data = sample();
        let (first, second) = data.split_at(400_000);
        for (compression, program) in
            [(Compression::Xz, "xz"), (Compression::Zstd, "zstd"), (Compression::Bzip2, "bzip2")]
        {
            let whole = compressed(program, &data);
            assert!(whole.len() < data.len(), "{program}");
            assert!(decompressed(compression, &whole).expect("read") == data, "{program}");
            let parts = [compressed(program, first), compressed(program, second)].concat();
            assert!(decompressed(compression, &parts).expect("read") == data, "{program} in parts");
        }
        assert!(decompressed(Compression::None, &data).expect("read") == data);
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_an_error() {
        let data = sample();
        for (compression, program) in
            [(Compression::Xz, "xz"), (Compression::Zstd, "zstd"), (Compression::Bzip2, "bzip2")]
        {
            let whole = compressed(program, &data);
            assert!(decompressed(compression, &whole[..whole.len() / 2]).is_err(), "{program} cut");
            assert!(decompressed(compression, b"no such thing").is_err(), "{program}: none");
            let trailing = [&whole[..], b"more than there was"].concat();
            assert!(decompressed(compression, &trailing).is_err(), "{program} with a tail");
        }
    }

    #[test]
    fn members_without_content_come_to_an_end() {
        let given = std::cell::Cell::new(0);
        for (compression, program) in
            [(Compression::Xz, "xz"), (Compression::Zstd, "zstd"), (Compression::Bzip2, "bzip2")]
        {
            let empty = compressed(program, b"");
            let endless = std::iter::repeat_n(empty, 1 << 18).flatten().collect::<Vec<u8>>();
            let mut reader = compression.reader(Allowance::new(&endless[..], &given)).expect(program);
            let refused = reader.read(&mut [0; 1]).expect_err(program);
            let said = vm_model::error_chain(&refused);
            assert!(
                said.contains("have no content") || said.contains("hold no more than 0"),
                "{program}: {said}"
            );
        }
    }
}
