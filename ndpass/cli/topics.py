"""What `ndpass help TOPIC` prints. Lines of at most 80 characters, as they stand."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

BUDGETS = """\
How far a run goes. Give one; --speedup may stand beside the first two.

  --max-drop POINTS   the metric falls by at most so many points, measured on
                      data that no layer was fitted to. The fastest model within
                      it is searched. Default with data: 1.0.
  --max-error E       the same for the largest error of any output, as a share
                      of its variance (0 to 1). Needs no labels.
  --speedup X         at least X times as fast on this CPU, measured; the least
                      error at that.
  --macs SHARE        this share of the multiply-accumulates is left (0 to 1).
  --energy SHARE      every layer keeps this share of its response's energy, or
                      without data of its weights'. Default without data: 0.95.
  --plan PLAN.json    what --save-plan wrote: the same settings again.
  nd:rank=2           pinned settings in --passes need no budget.

Milliseconds are measured, so MACs may fall without any gain; --macs and
--energy do not look at time. Every run times the result at its end.

  ndpass run model.onnx --calibration images/ --max-drop 0.5
  ndpass run model.onnx --calibration images/ --max-drop 1 --speedup 2
  ndpass run model.onnx --macs 0.5 --no-latency
"""

METRICS = """\
What is measured before and after, for --max-drop. Left out, it goes with the
kind of the outputs, and the run says which and why.

  top1        per cent of samples whose label has the highest score
  top5        per cent of samples whose label is among the five highest scores
  agreement   per cent of samples with the original's best class; no labels.
              Of a sequence: of its places that say anything
  iou         mean intersection over union with the original's masks, times 100
  psnr        signal-to-noise ratio against the original's output, in dB; 100
              for equal pictures, so --max-drop 60 keeps 40 dB; of an upscaler
              the default keeps ten dB more than plain interpolation has
  detection   F1 of the original's detections found again, times 100
  explained   100 x (1 - error/variance) of the worst output
  module:function   your own: takes a compiled OpenVINO model, returns a number;
                    the module may be a file in the working folder

Labels come from the names of class subfolders, or from `labels` in an .npz.

  ndpass run model.onnx --calibration images/ --metric top5
  ndpass run unet.onnx --calibration photos/ --metric iou --max-drop 2
  ndpass run model.onnx --calibration images/ --metric my_metric:accuracy
"""

PREPROCESS = """\
How pixels become what the model takes, after resizing and cropping:
y = (scale * x - mean) / std in each channel, x from 0 to 255.

  SPEC     = PRESET | PRESET,SETTING,... | SETTING,...
  SETTING  = key=value
  PRESET   = imagenet    size 256, crop 224, torchvision's mean and deviation
             caffe       size 256, crop 224, BGR, the means subtracted
             cifar10     size 32, torchvision's mean and deviation
             digits      size 8, grey, from 0 to 1

  size     224, 224x320 (height x width) or none: resize; with a crop the image
           keeps its shape and just covers the size, without one it becomes it
  crop     224, 224x320 or none: the centre that is kept after resizing
  scale    factor for pixels: 1/255
  mean     one number, or one for each channel, as 0.485:0.456:0.406
  std      the same
  color    rgb, bgr or grey
  layout   nchw or nhwc
  white    the value of white in arrays: 255, or 1 or 16 where pixels go so far

Numbers may be fractions. What is not named is not done: without a preset scale
is 1, mean 0 and std 1. A size after a preset moves the preset's crop as well.

  --preprocess imagenet
  --preprocess imagenet,size=320
  --preprocess size=224x320,scale=1/255,mean=0.5:0.4:0.3,std=0.2,color=bgr

A wrong preprocessing that makes the original wrong is found and refused where
the data have labels; --anyway goes on.
"""

DATA = """\
What layers are fitted to (--calibration, no labels needed) and what the metric
is measured on (--validation; left out, a fifth of the calibration data).

  FOLDER     images, in class subfolders where there are labels
  FILE.npz   arrays by input name or `images`, and maybe `labels`
  FILE.npy   one array, samples first

Class subfolders count from 0 in the order of the alphabet; numbers are labels,
those from 1 to n less one. Links are followed. Transparent parts are
white.

200 images fit most networks; 1,000 with labels tell a drop of one point. Images
go through --preprocess; float arrays are taken as they are.

  ndpass run model.onnx --calibration images/ --preprocess imagenet
  ndpass evaluate model.onnx --data images/ --preprocess imagenet
"""

EXIT_CODES = """\
  0     done, and what was asked for was written
  2     wrong usage: an option, or a file that cannot be written
  3     bad input: a model, data or a plan that cannot be read or used
  4     the budget cannot be reached; says what can; nothing was written
  5     the rewritten model failed its verification; nothing was written
  6     the machines of --engine cannot be reached, are not fit, or were lost
  130   interrupted; says what was saved and how to go on

Results go to stdout, progress, warnings and errors to stderr. Outputs appear
together at the end, or not at all.
"""

INT8 = """\
--int8 quantises the result with NNCF on the calibration data: pip install
"ndpass[int8]". Layers are chosen by their latency in int8, the metric is that
of the quantised model, and the report has four rows: the original and the
result, each as it is and in int8. The result is OpenVINO IR (.xml).

  ndpass run model.onnx --calibration images/ --int8 -o fast.xml
"""

RESUME = """\
A calibrated run keeps what it has done in .OUT.onnx.resume beside its output.
When it was cut off, the same command with --resume goes on there; what was
changed in the options or files meanwhile is told and refused.

  ndpass run model.onnx --calibration images/ --resume
"""

MACHINES = """\
Calibration and planning on a Dask cluster (pip install 'ndpass[dask]'):

  --engine dask://HOST:PORT       the scheduler's address
  --engine dask://tls://HOST:PORT  the same with TLS, as Dask is configured
  --engine dask://scheduler.json  the file that the scheduler writes
  --engine dask://local:4         four processes here, for this run alone
  --shards 16                     parts that the images are cut into

With the same --shards one machine and many give the same bytes, and --resume
goes on from one on the other. Workers need the same versions of ndpass,
OpenVINO, onnxruntime, NumPy and SciPy, and read data in files themselves, at a
path that all share. Latencies are those of the machine that asks.

  ndpass run model.onnx --calibration images/ --engine dask://10.0.0.7:8786
"""

REFINE = """\
After the closed-form fit, --refine trains all weights of the rewritten model
to the original's outputs on the calibration data, without labels. Structure,
settings and MACs stay; part of what was lost comes back.

  --refine 10min      for a time: 90s, 10min, 2h
  --refine 20         for a number of epochs over the calibration data
  --refine-labels     train to the labels of the data, too
  --refine-orthonormal 0.1
                      hold pointwise factors of low rank orthonormal (BSConv-S)

It is done by torch (pip install 'ndpass[refine]'), on the CPU or a CUDA device.
The held-out figure (KL of class scores, else error over variance) rises at
first and falls below its start only towards the end: give it time. What came
out is kept if that figure has fallen, otherwise the fitted weights are written.
Ctrl-C keeps the best so far. 100 images are few, some thousand are good.
With --max-drop or --max-error the budget is met after training: at most three
plans are trained, each for so long, and the fastest within it is written.

  ndpass run model.onnx --calibration images/ --passes nd:rank=2 --refine 30min
  ndpass refine fast.onnx --original model.onnx --calibration images/ --for 20
"""

REPORTS = """\
  --report OUT.html   one file for a browser: before and after, every layer,
                      what to do next; needs no network
  --json OUT.json     the same figures for scripts; schema: ndpass report-schema
  --save-plan P.json  the setting of every layer, for --plan
  -v                  the log;  -q  no progress and no table

  ndpass run model.onnx --calibration images/ --report r.html --json r.json
"""


def passes() -> str:
    """The grammar of --passes and every pass that there is."""
    from ndpass.passes import usable
    from ndpass.passes.options import usage

    found, _ = usable()
    listed = "\n".join(f"  {rule.name:5} {_wrapped(rule.summary)}\n        {usage(rule.options)}" for rule in found)
    return f"""\
Which rewrites a layer may get: --passes auto, or names in the order in which
they are composed inside a layer, each with settings that are pinned.

  SPEC = auto | PASS[:key=value...][,PASS...]

{listed}

`ndpass passes NAME` has the formula, when to use it, the cost, the reference.

  --passes nd                 --passes cd,nd
  --passes nd:rank=2          --passes cd:rank=64,nd:rank=2:form=dw-pw
"""


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 72, subsequent_indent=" " * 8)


TOPICS: dict[str, tuple[str, Callable[[], str]]] = {
    "budgets": ("how far a run goes", lambda: BUDGETS),
    "data": ("what layers are fitted to and measured on", lambda: DATA),
    "exit-codes": ("what scripts can rely on", lambda: EXIT_CODES),
    "int8": ("quantised results", lambda: INT8),
    "machines": ("a cluster for calibration and planning", lambda: MACHINES),
    "metrics": ("what is measured before and after", lambda: METRICS),
    "passes": ("which rewrites there are", passes),
    "preprocess": ("how pixels become inputs", lambda: PREPROCESS),
    "refine": ("train what was fitted, without labels", lambda: REFINE),
    "reports": ("what is written besides the model", lambda: REPORTS),
    "resume": ("go on where a run was cut off", lambda: RESUME),
}
