//! An import that is interrupted goes on where it was, and makes the same file.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use hyperion_model::import::{self, Precision};
use hyperion_primitives::ModelId;
use tempfile::TempDir;

/// The committed text model in a folder of its own, and a place for what is made of it.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pydoc");
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(committed.join(name), folder.path().join("source").join(name)).unwrap();
        }
        Self { folder }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.part")
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("model.part.journal")
    }

    fn import(&self) -> ModelId {
        import::to_file(&self.source(), Precision::EightBits, &self.path(), &mut |_, _| {}).unwrap()
    }

    /// Stops as a program that is killed does, after so many steps.
    fn interrupted(&self, steps: usize) {
        let mut progress = |done: usize, _: usize| assert!(done < steps, "interrupted");
        let progress: import::Progress<'_> = &mut progress;
        let run = || import::to_file(&self.source(), Precision::EightBits, &self.path(), progress);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "it was interrupted");
    }

    /// The file as it is made in one go.
    fn whole(&self) -> (ModelId, Vec<u8>) {
        let mut file = std::io::Cursor::new(Vec::new());
        let id = import::write(&self.source(), &mut file, &mut |_, _| {}).unwrap();
        (id, file.into_inner())
    }

    /// Turns the sign of the last weight without a trace in the file's length and time.
    fn alter_unseen(&self) {
        let path = self.source().join("model.safetensors");
        let touched = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        // The lowest bit of a fraction, of every number.
        bytes[8 + header..].iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(touched).unwrap();
    }
}

#[test]
fn it_goes_on_and_makes_the_same_file() {
    let case = Case::new();
    let (id, bytes) = case.whole();
    for steps in [1, 2, 20, 45] {
        case.interrupted(steps);
        assert!(case.journal().exists());
    }
    assert_eq!(case.import(), id);
    assert_eq!(fs::read(case.path()).unwrap(), bytes);
    assert!(!case.journal().exists(), "nothing is left to go on with");
}

#[test]
fn what_was_written_is_not_made_again() {
    let case = Case::new();
    let (id, _) = case.whole();
    case.interrupted(30);
    case.alter_unseen();
    let (altered, _) = case.whole();
    let resumed = case.import();
    assert_ne!(resumed, altered, "tensors from before were kept");
    assert_ne!(resumed, id, "the others were made of what the source holds now");
}

#[test]
fn bytes_that_are_not_what_was_noted_are_made_again() {
    let case = Case::new();
    let (id, bytes) = case.whole();
    case.interrupted(40);
    let mut file = fs::read(case.path()).unwrap();
    let middle = file.len() / 2;
    file[middle] ^= 1;
    fs::write(case.path(), &file).unwrap();
    assert_eq!(case.import(), id);
    assert_eq!(fs::read(case.path()).unwrap(), bytes);

    // A file that lost its end, and a journal that is cut or nonsense.
    for damage in [0, 1, 2] {
        case.interrupted(40);
        let journal = fs::read(case.journal()).unwrap();
        match damage {
            0 => fs::write(case.path(), &file[..middle]).unwrap(),
            1 => fs::write(case.journal(), &journal[..journal.len() - 30]).unwrap(),
            _ => fs::write(case.journal(), [&journal[..70], b"\xff\n1 2"].concat()).unwrap(),
        }
        assert_eq!(case.import(), id, "damage {damage}");
        assert_eq!(fs::read(case.path()).unwrap(), bytes, "damage {damage}");
    }
}

#[test]
fn another_source_begins_anew() {
    let case = Case::new();
    case.interrupted(30);
    case.alter_unseen();
    let path = case.source().join("model.safetensors");
    // Touched since.
    let later = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    let (id, bytes) = case.whole();
    // What a larger model left.
    fs::write(case.path(), vec![7; bytes.len() + 1_000_000]).unwrap();
    assert_eq!(case.import(), id);
    assert_eq!(fs::read(case.path()).unwrap(), bytes);
}

#[test]
fn a_source_that_is_refused_leaves_nothing() {
    let case = Case::new();
    fs::write(case.source().join("config.json"), "{}").unwrap();
    import::to_file(&case.source(), Precision::EightBits, &case.path(), &mut |_, _| {})
        .unwrap_err();
    assert!(!case.path().exists() && !case.journal().exists());
}

/// The same where two operators are made together: wherever the first try ended, also between them.
#[test]
fn weights_of_two_steps_go_on_from_everywhere() {
    let case = Case::new();
    let precision = Precision::SixteenBits;
    let mut whole = std::io::Cursor::new(Vec::new());
    let mut steps = 0;
    import::write_with(&case.source(), precision, &mut whole, &mut |_, all| steps = all).unwrap();
    let import = |progress: import::Progress<'_>| {
        import::to_file(&case.source(), precision, &case.path(), progress)
    };
    // A stride that two steps and their sum have no factor with.
    for end in (1..steps).step_by(7) {
        let interrupted = || import(&mut |done, _| assert!(done < end, "interrupted"));
        assert!(catch_unwind(AssertUnwindSafe(interrupted)).is_err());
        import(&mut |_, _| {}).unwrap();
        assert!(fs::read(case.path()).unwrap() == *whole.get_ref(), "after {end} of {steps}");
    }
    // A first step that has to be made again, while the second stands.
    let interrupted = || import(&mut |done, all| assert!(done + 1 < all, "interrupted"));
    for at in [4, 8, 16].map(|part| whole.get_ref().len() / part) {
        assert!(catch_unwind(AssertUnwindSafe(interrupted)).is_err());
        let mut file = fs::read(case.path()).unwrap();
        file[at] ^= 1;
        fs::write(case.path(), file).unwrap();
        import(&mut |_, _| {}).unwrap();
        assert!(fs::read(case.path()).unwrap() == *whole.get_ref(), "byte {at}");
    }
}
