import pytest

from bts.errors import UsageError
from bts.intake.rules import UNKNOWN, Facts, plain, read_rules

NAMES = {
    "t1": "T1_AX; t1_mprage_sag_p2_iso; Ax T1 FSE; Ax T1 FLAIR; SAG MPRAGE; t1_se_tra; BRAVO; sub-01_T1w; "
    "x_t1n; T1W_3D_FFE; FSPGR 3D; t1_fl2d_tra; AX T1 PRE GAD; AX T1 PRE CONTRAST; T1 precontrast; t1 nativ; "
    "SAG T1 WO CONTRAST; AX T1 W/O CONTRAST; AX T1 WITHOUT GAD; t1_mprage_sag_pre_gd; T1 non contrast; "
    "T1 NON-CON; T1 no contrast; T1 ohne KM; T1 sin contraste; MPRAGE PRE; "
    "3D_AX_T1_precontrast; T1 posterior fossa; T1 preop",
    "t1ce": "MRHR_T1_AX_POST_GAD; t1_mprage_sag_p2_iso_KM; Ax T1 FSE +C; AX T1 POST; T1 POST GD; "
    "MPRAGE POST; +C Ax T1; t1ce; x_t1c; SAG T1 C+; t1_mprage_Gd; T1+C; AX T1 W/ GAD; t1_se_tra+KM; "
    "post contrast t1; "
    "Ax T1 FLAIR +C; 3D BRAVO +C; T1W CE; 3D_AX_T1_postcontrast; T1 post-contrast; T1 postgad; T1 nach KM; "
    "AX T1 W CONTRAST; AX T1 WITH CONTRAST; T1 POST GAD PRE OP; T1 POST GAD PREOP; T1CE_native_space",
    "t2": "MRHR_T2_AX; t2_tse_tra_3mm; Ax T2 frFSE; T2W_TSE; x_t2w; T2 FS AX; t2_spc",
    "flair": "MRHR_FLAIR_AX; t2_tirm_tra_dark-fluid; Cor T2 FLAIR; 3D FLAIR; t2_space_dark-fluid_sag; x_t2f; "
    "CUBE FLAIR; T2 FLAIR POST; t2_spc_da-fl_sag",
    "calibration": "ASSET Cal; Calibration; Ref Head; CoilSurvey",
    "localiser": "localizer; 3-Plane Loc; Survey; AAHead_Scout_64ch",
    "derived": "Apparent Diffusion Coefficient; MIP; t1_mprage_sub; MPR cor; dADC; COR T1 POST REFORMATS",
}


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, names in NAMES.items() for name in names.split("; ")]
)
def test_descriptions_as_scanners_write_them(what, name):
    assert read_rules().what(Facts(plain(name))) == what


@pytest.mark.parametrize("name", ["AX T1 PRE/POST GAD", "T1 pre and post contrast"])
def test_before_and_after_contrast_agent_at_once_is_neither(name):
    assert read_rules().what(Facts(plain(name))) not in ("t1", "t1ce")


def test_a_name_that_denies_the_agent_of_the_tags_is_left_to_a_person():
    """Some scanners tag every series of an examination with the agent."""
    for name in ("AX T1 PRE GAD", "AX T1 WO CONTRAST", "MPRAGE PRE"):
        assert read_rules().what(Facts(plain(name), contrast=True, te=3)) not in ("t1", "t1ce")
    assert read_rules().what(Facts(plain("AX T1 POST"), contrast=True, te=3)) == "t1ce"
    assert read_rules().what(Facts(plain("AX T2 PRE"), contrast=True, te=100)) == "t2"


@pytest.mark.parametrize("protocol", ["BRAIN W/WO", "BRAIN W & W/O CONTRAST", "HEAD WITHOUT AND WITH GAD"])
def test_a_protocol_with_and_without_agent_tells_nothing_of_its_series(protocol):
    rules = read_rules()
    assert rules.what(Facts(plain("AX T1", protocol))) == "t1"
    assert rules.what(Facts(plain("AX T1 POST", protocol))) == "t1ce"
    assert rules.what(Facts(plain("AX T1 PRE", protocol))) == "t1"


def test_a_protocol_that_names_another_series_too_tells_nothing_of_a_t1():
    rules = read_rules()
    assert rules.what(Facts(plain("Ax T1 SE", "BRAIN IAC FIESTA W/WO"))) == "t1"
    assert rules.what(Facts(plain("Ax T1 POST", "CISS BRAIN"))) == "t1ce"
    assert rules.what(Facts(plain("t1_mprage_prescan"))) == "t1"
    assert rules.what(Facts(plain("SAG T2", "BRAIN W SWITCH"))) == "t2"


def test_diffusion_susceptibility_and_angiography_are_no_modality():
    for name in ("ep2d_diff_3scan_ADC", "AX DWI", "SWI_Images", "TOF_3D", "PD AX", "Ax T2* GRE", "ASL"):
        assert read_rules().what(Facts(plain(name))) not in ("t1", "t1ce", "t2", "flair")


NONE = {"Mag_Images t2_swi3d_tra *fl3d1r": 20, "SWIp": 7, "T2*W_FFE": 23, "isoDWI": 80, "eADC": 80}
NONE |= {"CISS 3D": 2.7, "t2_tra *ci3d3d1": 2.7, "Ax FIESTA-C": 1.5, "TRICKS": 1.2, "ASSET Cal": 2}


@pytest.mark.parametrize(("name", "te"), NONE.items())
def test_tags_do_not_make_a_modality_of_what_its_name_tells(name, te):
    """After contrast agent it was T1ce, with the echo of a T2 a T2, and taken where it had more slices."""
    for agent in (False, True):
        facts = Facts(plain(name), contrast=agent, tr=5000 if te == 80 else 30, te=te)
        assert read_rules().what(facts) not in ("t1", "t1ce", "t2", "flair")


def test_tags_tell_where_the_description_does_not():
    rules = read_rules()
    assert rules.what(Facts("brain", contrast=True, tr=600, te=12)) == "t1ce"
    assert rules.what(Facts("brain", tr=9000, te=110, ti=2500)) == "flair"
    assert rules.what(Facts("brain", contrast=True, tr=9000, te=110, ti=2500)) == "flair"
    assert rules.what(Facts("brain", tr=4000, te=100)) == "t2"
    assert rules.what(Facts("brain", tr=500, te=12)) == "t1"
    assert rules.what(Facts("brain", image_type=("DERIVED", "PRIMARY"), tr=500, te=12)) == "derived"
    assert rules.what(Facts("brain")) == UNKNOWN


def test_own_rules_are_asked_first():
    own = b'prefer = ["complete", "latest"]\n[[rule]]\nis = "t1ce"\ntext = "magic"\n[study."1.2.3"]\nt2 = 5\n'
    rules = read_rules(own)
    assert rules.what(Facts("magic t2")) == "t1ce"
    assert rules.what(Facts("t2")) == "t2"
    assert rules.prefer == ("complete", "latest")
    assert rules.chosen == {"1.2.3": {"t2": "5"}}
    assert rules.mark != read_rules().mark


@pytest.mark.parametrize(
    "text",
    ["[[rule]]\nis = 't1'", "[[rule]]\nis='t1'\ntext='('", "prefer=['best']", "rules=3", "[[rule",
     "[[rule]]\nis='t1'\ntr=[1]",
     "[study]\nx = 3"],
)  # fmt: skip
def test_a_file_that_is_no_rules_is_refused(text):
    with pytest.raises(UsageError, match=r"mine\.toml"):
        read_rules(text.encode(), "mine.toml")
