"""The checkpoint that the paper's authors hand out, as a model folder of this project.

It is a `torch.save`d state dict of four parts, read without running anything that is pickled in it:

    AL             Swin Transformer as torchvision builds it; F_level is its pooled feature
    TF_Fea_shift   Linear–BatchNorm on 100 × the cosines with all tags, semantic first, then a ReLU
    AL_Fea_shift   the same on F_level
    regression     Linear on both, tags first, then a softmax over the scores 1..10

What the checkpoint lacks is any photo it was trained on, against which this project explains a score. Two ways out:

- reference photos: their mean is what a photo is compared with, their clusters give kind and percentile;
- none: batch normalisation remembers the mean and the variance that the photos of training had behind each first
  layer. The mean similarity to every tag is linear in the mean photo embedding, which has fewer numbers (768) than
  there are remembered means (1,024), so it can be solved for. Explanations then compare with the authors' own mean
  training photo, and how well the means are met tells whether the tags are the checkpoint's. Kind and percentile
  stay unknown.
"""
