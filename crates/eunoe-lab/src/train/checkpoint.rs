//! A run on disk: parameters, moments and the configuration in one safetensors file, replaced as a whole or not at all.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{Device, Tensor};
use eunoe_core::{Error, Result};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{AdamW, RunConfig};
use crate::invalid;
use crate::nets::{Param, Params};

/// Its name in the folder of a run.
pub const CHECKPOINT: &str = "last.safetensors";

/// The key of the header in the file's metadata.
const HEADER: &str = "eunoe_lab";

/// What a checkpoint says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps taken.
    pub step: u64,
    /// The run.
    pub config: RunConfig,
    /// What it learns from; none where an older program wrote it.
    pub text: Option<String>,
}

impl Checkpoint {
    /// Writes the run's state to `path`. A file that is there already stays until the new one is whole.
    ///
    /// # Errors
    /// [`Error::Io`]: what was there before is still there.
    pub fn save(&self, path: &Path, params: &Params, adam: &AdamW) -> Result<()> {
        let mut tensors: HashMap<String, Tensor> =
            params.iter().map(|(name, p)| (format!("param.{name}"), p.var.as_tensor().clone())).collect();
        for (name, param) in params.iter() {
            let [m, v] = adam.moments(name, &param.var).map_err(invalid)?;
            tensors.extend([(format!("m.{name}"), m), (format!("v.{name}"), v)]);
        }
        let header = serde_json::to_string(self).map_err(|e| Error::Invalid(e.to_string()))?;
        let bytes = safetensors::serialize(&tensors, Some(HashMap::from([(HEADER.to_owned(), header)])));
        write_whole(path, &bytes.map_err(|error| Error::Invalid(error.to_string()))?)
    }

    /// Reads parameters and moments into a run whose shapes they have; its step is the checkpoint's then.
    ///
    /// # Errors
    /// [`Error::Format`] for another file, [`Error::Shape`] for a checkpoint of another model.
    pub fn load(path: &Path, params: &Params, adam: &mut AdamW) -> Result<Self> {
        let file = File::open(path)?;
        // all are read before one is set: a checkpoint of another model changes nothing
        let read = |(name, param): (&str, &Param)| {
            let part = |part| file.tensor(part, name, &param.var);
            Ok((name.to_owned(), param.var.clone(), part("param")?, [part("m")?, part("v")?]))
        };
        for (name, var, value, moments) in params.iter().map(read).collect::<Result<Vec<_>>>()? {
            var.set(&value).and_then(|()| adam.set_moments(&name, &moments)).map_err(invalid)?;
        }
        adam.step = file.header.step;
        Ok(file.header)
    }
}

/// Reads the parameters of a checkpoint into `params`.
///
/// # Errors
/// As [`Checkpoint::load`].
pub fn load_params(path: &Path, params: &Params) -> Result<()> {
    let file = File::open(path)?;
    let read =
        |(name, param): (&str, &Param)| Ok((param.var.clone(), file.tensor("param", name, &param.var)?));
    let values = params.iter().map(read).collect::<Result<Vec<_>>>()?;
    values.into_iter().try_for_each(|(var, value)| var.set(&value).map_err(invalid))
}

/// Reads what a checkpoint says of itself.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] for another file.
pub fn read_header(path: &Path) -> Result<Checkpoint> {
    Ok(File::open(path)?.header)
}

/// A checkpoint in memory.
struct File<'a> {
    path: &'a Path,
    header: Checkpoint,
    tensors: BufferedSafetensors,
}

impl<'a> File<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let name = format!("`{}`", path.display());
        let wrong = |why: String| Error::format(&name, 0, why);
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| wrong(format!("expected a whole safetensors file: {error}")))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let header = header.ok_or_else(|| wrong("not a checkpoint of the lab".into()))?;
        let header: Checkpoint =
            serde_json::from_str(header).map_err(|error| wrong(format!("its header: {error}")))?;
        header.config.check().map_err(|error| wrong(format!("its header: {error}")))?;
        let tensors = BufferedSafetensors::new(bytes).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { path, header, tensors })
    }

    fn tensor(&self, part: &str, name: &str, like: &Tensor) -> Result<Tensor> {
        let what = format!("`{part}.{name}` of `{}`", self.path.display());
        let tensor = self.tensors.load(&format!("{part}.{name}"), &Device::Cpu);
        let tensor =
            tensor.map_err(|_| Error::format(&what, 0, "is not there: a checkpoint of another model"))?;
        if tensor.dims() != like.dims() || tensor.dtype() != like.dtype() {
            let of = |t: &Tensor| format!("{:?} {:?}", t.dims(), t.dtype());
            return Err(Error::Shape { what, want: of(like), got: of(&tensor) });
        }
        tensor.to_device(like.device()).map_err(invalid)
    }
}

/// Writes `bytes` under `path` as a whole or not at all: to a file beside it, to the disk, then under its name.
///
/// # Errors
/// [`Error::Io`]: what was there before is still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |error| Error::io(path, error);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // as any file that a program makes: what the user's mask leaves of it
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::train::TrainConfig;

    fn params(seed: u64, width: usize) -> Params {
        let mut params = Params::new(seed, DType::F32, &Device::Cpu);
        params.init().normal("a.weight", &[3, width], 1.0).unwrap();
        params.init().constant("b", &[2], 1.0).unwrap();
        params
    }

    fn values(params: &Params) -> Vec<Vec<f32>> {
        params.iter().map(|(_, p)| p.var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn a_header_of_an_older_program_is_read() {
        let old = serde_json::json!({ "step": 3, "config": RunConfig::default() });
        let want = Checkpoint { step: 3, ..Checkpoint::default() };
        assert_eq!(serde_json::from_value::<Checkpoint>(old).unwrap(), want);
    }

    #[test]
    fn a_checkpoint_brings_everything_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let (from, config) = (params(1, 4), RunConfig::default());
        let mut adam = AdamW::new(&from, &config.train).unwrap();
        let half = Tensor::full(0.5f32, (3, 4), &Device::Cpu).unwrap();
        adam.set_moments("a.weight", &[half.clone(), half.clone()]).unwrap();
        adam.step = 17;
        let header = Checkpoint { step: 17, config: config.clone(), text: Some("a text".into()) };
        header.save(&path, &from, &adam).unwrap();
        let to = params(2, 4);
        let mut other = AdamW::new(&to, &TrainConfig::default()).unwrap();
        assert_eq!(Checkpoint::load(&path, &to, &mut other).unwrap(), header);
        assert_eq!((values(&to), other.step), (values(&from), 17));
        let v = other.moments("a.weight", &half).unwrap()[1].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(v, [0.5; 12]);
    }

    #[test]
    fn what_is_no_checkpoint_of_this_model_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let from = params(1, 4);
        let adam = AdamW::new(&from, &TrainConfig::default()).unwrap();
        Checkpoint::default().save(&path, &from, &adam).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let to = params(2, 5);
        let before = values(&to);
        let refused = |why: &str| {
            let mut adam = AdamW::new(&to, &TrainConfig::default()).unwrap();
            let error = Checkpoint::load(&path, &to, &mut adam).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(values(&to), before);
        };
        refused("expected [3, 5] F32, got [3, 4] F32");
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        refused("expected a whole safetensors file");
        std::fs::write(&path, candle_bytes()).unwrap();
        refused("not a checkpoint of the lab");
        std::fs::write(&path, b"{}").unwrap();
        refused("expected a whole safetensors file");
        let mut config = RunConfig::default();
        config.model.heads = 0;
        Checkpoint { config, ..Checkpoint::default() }.save(&path, &from, &adam).unwrap();
        refused("its header: `heads` 0 does not divide");
    }

    fn candle_bytes() -> Vec<u8> {
        let one = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
        safetensors::serialize([("x", one)], None).unwrap()
    }

    #[test]
    fn a_save_that_fails_leaves_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        write_whole(&path, b"good").unwrap();
        // a folder stands where the file should come
        let other = folder.path().join("taken");
        std::fs::create_dir(&other).unwrap();
        assert!(write_whole(&other, b"x").is_err());
        assert!(write_whole(&folder.path().join("no/such/folder"), b"x").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing half written is left");
    }
}
