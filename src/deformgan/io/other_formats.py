"""Files that are not read here: what to do with them, by their endings."""

from __future__ import annotations

from pathlib import Path

GENERAL = "give a .nii or .nii.gz volume"
DICOM = "name its folder, if that holds one series, or convert it: dcm2niix -z y FOLDER"
_NIBABEL = (
    'python -c "import nibabel as nib; image = nib.load({0!r}); '
    "nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), 'image.nii.gz')\""
)
_SIMPLEITK = "python -c \"import SimpleITK as sitk; sitk.WriteImage(sitk.ReadImage({0!r}), 'image.nii.gz')\""
_HINTS = (
    ((".mnc", ".mnc.gz", ".par", ".rec", ".head", ".brik", ".brik.gz", ".v"), f"make a NIfTI file of it: {_NIBABEL}"),
    ((".gipl", ".gipl.gz", ".vtk", ".mrc", ".tif", ".tiff"), f"make a NIfTI file of it: {_SIMPLEITK}"),
    ((".mif", ".mif.gz", ".mih"), "make a NIfTI file of it: mrconvert {0} image.nii.gz"),
    ((".trk", ".tck", ".trx"), "it holds streamlines; give the image they were drawn on"),
    ((".gii", ".pial", ".white", ".stl", ".obj"), "it holds a surface; give the image it was made from"),
)


def hint(path: str | Path) -> str:
    """The next thing to try with an image file of another format."""
    name = Path(path).name.lower()
    return next((say.format(str(path)) for endings, say in _HINTS if name.endswith(endings)), GENERAL)
