"""Every address outside the repository that README, the pages of docs/ and the files beside them name, once."""

ADDRESSES = (
    "https://arxiv.org/abs/1405.3866",  # sd: Jaderberg et al. 2014
    "https://arxiv.org/abs/1505.06798",  # cd: Zhang et al. 2015
    "https://arxiv.org/abs/1707.06168",  # cp: He et al. 2017
    "https://arxiv.org/abs/1808.05517",  # nd: Guo et al. 2018
    "https://arxiv.org/abs/1812.08374",  # DAC: Li et al. 2018
    "https://arxiv.org/abs/2003.13549",  # BSConv: Haase & Amthor 2020
    "https://arxiv.org/abs/2202.07861",  # bm: Wang & Wu 2022
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org/spec/v2.0.0.html",
)
