//! What the heads of a model do, as `eunoe probe retrieval_heads` found it: found again by the model file's checksum.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use eunoe_kv::{Plan, Profile};

use crate::home::Home;
use crate::wheel::cannot;
use crate::{open, pull};

/// Profiles of the models that `eunoe pull` knows.
const BUILT_IN: [&str; 4] = [
    include_str!("../assets/profiles/smollm2-135m.json"),
    include_str!("../assets/profiles/gemma3-270m.json"),
    include_str!("../assets/profiles/qwen2.5-coder-0.5b.json"),
    include_str!("../assets/profiles/qwen2.5-coder-1.5b.json"),
];

/// The plan, with the profile of the model's heads where its policy needs one: the user's own, else a built-in one.
///
/// # Errors
/// A model that cannot be read, a profile that is broken, or none.
pub(crate) fn attach(plan: Plan, model: &Path) -> Result<Plan> {
    attach_with(plan, model, || Ok(find(model)?.map(Arc::new)))
}

/// As [`attach`], with a profile that is found elsewhere.
///
/// # Errors
/// Those of `found`, or none.
pub(crate) fn attach_with(
    plan: Plan,
    model: &Path,
    found: impl FnOnce() -> Result<Option<Arc<Profile>>>,
) -> Result<Plan> {
    if !plan.make_policy(u32::MAX)?.needs().profile {
        return Ok(plan);
    }
    let Some(profile) = found()? else {
        let (id, model) = (plan.policy.card.id, model.display());
        bail!(
            "`{id}` splits the heads of a model, and nothing is known of this one's: \
               `eunoe probe retrieval_heads -m {model}` finds out"
        );
    };
    Ok(Plan { profile: Some(profile), ..plan })
}

/// What is known of the heads of a model.
///
/// # Errors
/// A model that cannot be read, or a profile that is broken.
pub(crate) fn find(model: &Path) -> Result<Option<Profile>> {
    let sha256 = open::sha256(&open::file(model)?)?;
    let path = Home::from_env()?.profile(&sha256);
    if path.exists() {
        return read(&path, &sha256).map(Some);
    }
    let all: Vec<Profile> = BUILT_IN.iter().map(|text| parse(text)).collect::<Result<_>>()?;
    Ok(all.into_iter().find(|p| p.sha256 == sha256))
}

/// Checksum of the profile that plans split heads by, if one does.
///
/// # Errors
/// None on well-formed profiles.
pub(crate) fn digest<'a>(mut plans: impl Iterator<Item = &'a Plan>) -> Result<Option<String>> {
    let Some(profile) = plans.find_map(|plan| plan.profile.as_ref()) else { return Ok(None) };
    Ok(Some(pull::sha256_of_bytes(&serde_json::to_vec(profile.as_ref())?)))
}

/// Writes a profile where [`attach`] finds it.
///
/// # Errors
/// The folder or the file cannot be written.
pub(crate) fn save(profile: &Profile) -> Result<PathBuf> {
    let path = Home::from_env()?.profile(&profile.sha256);
    let folder = path.parent().unwrap_or(&path);
    fs::create_dir_all(folder).with_context(|| cannot("create", folder))?;
    let partial = path.with_extension("part");
    fs::write(&partial, serde_json::to_string(profile)?).with_context(|| cannot("write", &partial))?;
    fs::rename(&partial, &path).with_context(|| cannot("write", &path))?;
    Ok(path)
}

fn read(path: &Path, sha256: &str) -> Result<Profile> {
    let text = fs::read_to_string(path).with_context(|| cannot("read", path))?;
    let profile = parse(&text)
        .with_context(|| format!("`{}` is not a profile; delete it and probe again", path.display()))?;
    if profile.sha256 != sha256 {
        let of = &profile.model;
        bail!("`{}` is a profile of another model (`{of}`); delete it and probe again", path.display());
    }
    Ok(profile)
}

fn parse(text: &str) -> Result<Profile> {
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::MODELS;

    #[test]
    fn every_model_that_can_be_pulled_has_a_profile() {
        assert_eq!(BUILT_IN.len(), MODELS.len());
        for (text, model) in BUILT_IN.iter().zip(&MODELS) {
            let profile = parse(text).unwrap();
            assert_eq!((profile.model.as_str(), profile.sha256.as_str()), (model.name, model.sha256));
        }
    }

    #[test]
    fn a_file_that_is_no_profile_or_anothers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        fs::write(&path, BUILT_IN[0]).unwrap();
        assert!(read(&path, MODELS[0].sha256).is_ok());
        assert!(read(&path, &"0".repeat(64)).unwrap_err().to_string().contains("another model"));
        fs::write(&path, &BUILT_IN[0][..40]).unwrap();
        assert!(read(&path, MODELS[0].sha256).unwrap_err().to_string().contains("probe again"));
        assert!(read(&folder.path().join("none"), "").is_err());
    }
}
