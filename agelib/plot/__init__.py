"""Every figure of the suite, from arrays: `images` draws pictures of images, `charts` everything else."""
