"""The methods that the paper compares with: adversarially learned inference (ali), a variational autoencoder (vae) and a
generative adversarial network (gan). Each module has its Config, `build` for its networks and `make_step`, which has the
signature of `age.make_step`.
"""
